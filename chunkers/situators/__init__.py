"""What situates a chunk: headings, sentences and questions that a language model writes."""
