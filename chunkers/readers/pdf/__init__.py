"""PDF files -> Markdown with pages: glyphs and rules, columns, tables, running heads, headings, paragraphs."""
