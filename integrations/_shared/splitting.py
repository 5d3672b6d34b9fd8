"""Work on a framework's documents before and after any splitter cuts them."""

from __future__ import annotations

import re
import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from situate.chunkers import HeadingSituator
from situate.chunkers.auto import is_markdown
from situate.chunkers.base import encodable
from situate.chunkers.headings import Table, outline
from situate.errors import FallbackWarning, MissingExtraError
from situate.types import Chunk, Document

# A page's beginning, after comments and an XML declaration.
_PAGE = re.compile(
    r"\ufeff?\s*(?:<\?xml[^>]{0,200}\?>\s*|<!--(?:(?!-->).){0,2000}-->\s*){0,5}<(?:!doctype\s+html|html)\b",
    re.IGNORECASE | re.DOTALL,
)
_HTML_SUFFIX = re.compile(r"\.x?html?\Z", re.I)
_TAG = re.compile(r"</?(?:p|div|h[1-6]|body|table|ul|ol|li|br|span|a)\b[^<>]{0,1000}>", re.I)


def is_html(text: str, name: Any = None) -> bool:
    """Whether a text is HTML source: by its beginning, or by its file's name and a tag.

    Args:
        text: The text.
        name: The file's name or URL, if known.
    """
    if _PAGE.match(text):
        return True
    return isinstance(name, str) and bool(_HTML_SUFFIX.search(name)) and bool(_TAG.search(text))


def read(text: str, metadata: Mapping[str, Any], name: Any = None) -> tuple[str, dict[str, Any]]:
    """A document's text as it is split, and its metadata: HTML source as Markdown, as `read_documents` reads it.

    Args:
        text: The text that a framework's loader read.
        metadata: The document's metadata; left as they are.
        name: The file's name or URL, if known.
    """
    if not is_html(text, name):
        return text, dict(metadata)
    from situate.chunkers.readers.html import html_to_markdown

    try:
        markdown, title = html_to_markdown(text)
    except MissingExtraError as error:
        warnings.warn(f"an HTML document is embedded with its tags: {error}", FallbackWarning, stacklevel=2)
        return text, dict(metadata)
    return markdown, {**({"title": title} if title else {}), **metadata, "format": "markdown"}


def under_headings(document: Document, chunks: Sequence[Chunk], *, anew: bool = False) -> list[Chunk]:
    """The chunks with the headings above them, where the document is Markdown (by the rule of `AutoChunker`).

    Args:
        document: The document.
        chunks: Its chunks, by any splitter.
        anew: Also replace headings and the columns of tables that the chunks have.
    """
    if not chunks or not is_markdown(document):
        return list(chunks)
    if anew:
        tables = outline(encodable(document.text)).tables
        chunks = [replace(chunk, context=replace(chunk.context, headings=(), columns=())) for chunk in chunks]
        chunks = [_in_table(chunk, tables) for chunk in chunks]
    return HeadingSituator(title_from_heading=False, previous=0).situate(document, chunks)


def _in_table(chunk: Chunk, tables: Sequence[Table]) -> Chunk:
    """The chunk with the column names of the table that it begins in, below its header row."""
    at = bisect_left(tables, chunk.start, key=lambda table: table.start) - 1
    if at < 0 or chunk.start >= tables[at].end:
        return chunk
    return replace(chunk, context=replace(chunk.context, columns=tables[at].columns))
