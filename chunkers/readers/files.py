"""Documents from files: Markdown, text, HTML, PDF and JSON Lines."""

from __future__ import annotations

import codecs
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from situate.chunkers.base import encodable
from situate.chunkers.headings import front_matter_end, markdown_headings
from situate.chunkers.readers.html import html_to_markdown
from situate.errors import InputError, MissingExtraError
from situate.outside import load_json, safe_message
from situate.types import Document

#: Byte order marks, longest first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class SkippedFilesWarning(UserWarning):
    """Files or lines were not read; the message counts them and says why."""


def read_documents(path: str | Path, *, on_error: Literal["skip", "raise"] = "skip") -> Iterator[Document]:
    """The documents of a folder or a file, one at a time.

    Reads ``.md``, ``.markdown``, ``.txt``, ``.html``, ``.htm``, ``.pdf`` and ``.jsonl``. A folder is read with its
    subfolders, in the order of the paths, without hidden files; one that holds a ``documents.jsonl`` is a data set,
    and only that file is read. HTML becomes Markdown, so that its headings situate what stands below them.

    A document's id is its path below ``path``, with forward slashes. In JSON Lines, ``{"id", "title", "text", ...}``,
    a line is a document with its own id, and every further key is metadata. Text is UTF-8, or what its byte order mark
    says, or else Windows-1252.

    Args:
        path: A folder or a file.
        on_error: "skip" goes on after a file or line that cannot be read, and says so in one `SkippedFilesWarning`
            at the end; "raise" stops there.

    Raises:
        InputError: There is no such path, or its kind is not known; with ``on_error="raise"`` also the first file or
            line that cannot be read.
        MissingExtraError: A PDF or HTML file is there, and the extra ``documents`` is not installed.
    """
    root = Path(path)
    if not root.exists():
        raise InputError(f"{str(path)!r} does not exist: give a folder or a file of documents")
    if root.is_file() and root.suffix.lower() not in _READERS:
        raise InputError(f"{str(path)!r} is none of {', '.join(sorted(_READERS))}: convert it, or give a folder")
    # The checks above are made when the function is called, not when the first document is asked for.
    return _read(root, on_error)


def decoded(data: bytes) -> str:
    """Bytes as text: by the byte order mark, else UTF-8, else Windows-1252 (whose gaps are read as Latin-1)."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    for encoding in ("utf-8", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


@dataclass
class _Skipped:
    """What was not read, and why."""

    on_error: str
    reasons: list[str] = field(default_factory=list)

    def note(self, where: str, why: str, cause: Exception | None = None) -> None:
        if self.on_error == "raise":
            raise InputError(f"{where} cannot be read: {why}; on_error='skip' goes on without it") from cause
        self.reasons.append(f"{where} ({why})")

    def say(self) -> None:
        if self.reasons:
            first = "; ".join(self.reasons[:3]) + ("; ..." if len(self.reasons) > 3 else "")
            warnings.warn(
                f"{len(self.reasons)} files or lines were skipped: {first}", SkippedFilesWarning, stacklevel=4
            )


def _read(root: Path, on_error: str) -> Iterator[Document]:
    skipped = _Skipped(on_error)
    base = root.parent if root.is_file() else root
    for file in _files(root):
        name = file.relative_to(base).as_posix()
        suffix = file.suffix.lower()
        if suffix == ".jsonl":
            yield from _json_lines(file, name, skipped)
            continue
        if suffix not in _READERS:
            # Files of another kind are no failure: they are counted, and stop nothing.
            skipped.reasons.append(f"{name} (no kind that is read)")
            continue
        try:
            text, metadata = _READERS[suffix](file.read_bytes())
        except MissingExtraError:
            raise
        except Exception as error:  # noqa: BLE001 - parsers of foreign formats fail in ways of their own
            skipped.note(name, safe_message(error), error)
            continue
        yield Document(name, text, {"path": name} | metadata)
    skipped.say()


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    if (data_set := root / "documents.jsonl").is_file():
        return [data_set]
    return sorted(
        file
        for file in root.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)
    )


def _json_lines(file: Path, name: str, skipped: _Skipped) -> Iterator[Document]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{name}:{number}"
            try:
                values = load_json(line, "the line")
            except InputError as error:
                skipped.note(where, str(error), error)
                continue
            if not isinstance(values, dict) or not isinstance(values.get("text"), str):
                skipped.note(where, 'needs an object with a string "text"')
                continue
            document_id = values.pop("id", None)
            document_id = where if document_id in (None, "") else str(document_id)
            text = values.pop("text")
            yield Document(document_id, text, {key: value for key, value in values.items() if value is not None})


def _markdown(data: bytes) -> tuple[str, dict[str, Any]]:
    text = decoded(data)
    metadata: dict[str, Any] = {"format": "markdown"}
    for line in text[: front_matter_end(text)].splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip().lower() in {"title", "date"} and value.strip():
            metadata[key.strip().lower()] = value.strip().strip("\"'")
    if "title" not in metadata:
        title = next((heading.text for heading in markdown_headings(encodable(text)) if heading.level == 1), None)
        metadata |= {"title": title} if title else {}
    return text, metadata


def _text(data: bytes) -> tuple[str, dict[str, Any]]:
    return decoded(data), {"format": "text"}


def _html(data: bytes) -> tuple[str, dict[str, Any]]:
    text, title = html_to_markdown(data)
    return text, {"format": "markdown"} | ({"title": title} if title else {})


def _pdf(data: bytes) -> tuple[str, dict[str, Any]]:
    try:
        from pypdf import PdfReader
    except ImportError as error:
        raise MissingExtraError.of("pypdf", "documents", "reading PDF files") from error
    from io import BytesIO

    reader = PdfReader(BytesIO(data))
    pages = [page.extract_text() for page in reader.pages]
    title = reader.metadata.title if reader.metadata else None
    metadata: dict[str, Any] = {"format": "text", "pages": len(pages)}
    if isinstance(title, str) and title.strip():
        metadata["title"] = title.strip()
    return "\n\n".join(pages), metadata


_READERS: dict[str, Callable[[bytes], tuple[str, dict[str, Any]]]] = {
    ".md": _markdown,
    ".markdown": _markdown,
    ".txt": _text,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
    ".jsonl": _text,
}
