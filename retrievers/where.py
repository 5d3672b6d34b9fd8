"""Where a passage stands in its document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from situate.types import PAGES, Chunk

#: Metadata keys that hold one page, the most telling first: a label is what is printed on the page, while ``page`` is
#: counted from 0 by some loaders that also write the label.
_PAGE_KEYS = ("page_label", "page_number", "page")
#: Metadata keys for where a document came from; the last three are those of the frameworks' readers.
_PATH_KEYS = ("path", "file_path", "source", "url")
#: Pages that a passage can name; a longer list is no list of a passage's pages.
_MOST_PAGES = 1_000


@dataclass(frozen=True)
class Where:
    """The place of a passage, for a citation.

    Attributes:
        document_id: The document's id.
        title: Its title.
        path: Where the document came from (file path, URL).
        headings: The headings above the passage, outermost first.
        pages: The pages that it stands on: ``metadata["pages"]``, two numbers being the first and the last one, else
            ``page_label``, ``page_number`` or ``page``.
        start: First character in the document's text.
        end: One past the last character.
    """

    document_id: str
    title: str | None = None
    path: str | None = None
    headings: tuple[str, ...] = ()
    pages: tuple[int | str, ...] = ()
    start: int = 0
    end: int = 0

    @classmethod
    def of(cls, chunk: Chunk) -> Where:
        """The place of a chunk."""
        context = chunk.context
        title = context.title or _text(chunk.metadata.get("title"))
        headings = tuple(heading for heading in context.headings if heading != title)
        path = context.path or next(filter(None, (_text(chunk.metadata.get(key)) for key in _PATH_KEYS)), None)
        return cls(chunk.document_id, title, path, headings, _pages(chunk.metadata), chunk.start, chunk.end)

    def __str__(self) -> str:
        """The title (or path, or id), the headings and the pages on one line.

        >>> str(Where("h", "Handbook", headings=("Leave", "Parental leave"), pages=(3, 4)))
        'Handbook > Leave > Parental leave, pages 3-4'
        """
        place = " > ".join((self.title or self.path or self.document_id, *self.headings))
        first, last = (self.pages or (None,))[0], (self.pages or (None,))[-1]
        if first == last:
            return place if first is None else f"{place}, page {first}"
        if isinstance(first, int) and self.pages == tuple(range(first, first + len(self.pages))):
            return f"{place}, pages {first}-{last}"
        return f"{place}, pages {', '.join(map(str, self.pages))}"

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, and the span, as JSON values."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {name: value for name, value in values.items() if value or name in ("document_id", "start", "end")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Where:
        """The inverse of `to_dict`; keys that are not fields are left out."""
        known = cls.__dataclass_fields__
        taken: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items() if n in known}
        return cls(**taken)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _pages(metadata: Mapping[str, Any]) -> tuple[int | str, ...]:
    several = metadata.get(PAGES)
    if not isinstance(several, Sequence) or isinstance(several, str) or len(several) > _MOST_PAGES:
        several = [next((metadata[key] for key in _PAGE_KEYS if metadata.get(key) is not None), None)]
    pages = tuple(page for page in several if isinstance(page, int | str) and not isinstance(page, bool))
    match pages:
        case (int(first), int(last)) if first <= last < first + _MOST_PAGES:
            return tuple(range(first, last + 1))
    return pages
