"""Documents from files: Markdown, text, HTML, PDF and JSON Lines."""

from __future__ import annotations

import codecs
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from situate.chunkers.base import encodable
from situate.chunkers.headings import front_matter_end, markdown_headings
from situate.chunkers.readers.decoding import decoded, decoded_text
from situate.chunkers.readers.formats import FORMATS
from situate.chunkers.readers.html import decoded_page, html_to_markdown
from situate.chunkers.readers.pdf.reader import MAX_PAGES, SECONDS, PdfReader
from situate.errors import InputError, MissingExtraError
from situate.outside import load_json, safe_message
from situate.parameters import checked_values
from situate.types import Document

#: Bytes of a file that are read, where the caller names no other limit.
MAX_BYTES = 256 * 2**20


#: A title or date of front matter: a key that stands in no other one, with a value on its line.
_FRONT_MATTER = re.compile(r"(title|date):[ \t]+(?:\"([^\"]+)\"|'([^']+)'|([^\s\"'>|#&*!\[{].*))", re.IGNORECASE)


#: A kind of file: its bytes and its name -> the text and metadata of its document.
_Kind: TypeAlias = Callable[[bytes, str], tuple[str, dict[str, Any]]]


def readable_suffixes() -> tuple[str, ...]:
    """The endings of the file names that `read_documents` reads, sorted: ``.c``, ``.docx``, ..."""
    return tuple(sorted([*_KINDS, ".pdf"]))


class SkippedFilesWarning(UserWarning):
    """Files or lines were not read; the message counts them and says why of the first.

    Attributes:
        reasons: All of them, each with its reason.
    """

    reasons: tuple[str, ...] = ()


@checked_values
def read_documents(
    path: str | Path,
    *,
    on_error: Literal["skip", "raise"] = "skip",
    max_bytes: int | None = MAX_BYTES,
    follow_symlinks: bool = False,
    password: str | None = None,
    max_pages: int | None = MAX_PAGES,
    seconds: float | None = SECONDS,
) -> Iterator[Document]:
    """The documents of a folder or a file, one at a time.

    Reads Markdown, text, HTML, PDF, JSON Lines and the kinds of `situate.chunkers.readers.formats`: Word, PowerPoint,
    Excel, EPUB, RTF, e-mail, notebooks, reStructuredText, CSV and source code. A folder is read with its subfolders, in
    the order of the paths, without hidden files; one that holds a ``documents.jsonl`` is a data set, and only that file
    is read. All but text and code becomes Markdown, so that its headings situate what stands below them; of a PDF or a
    presentation metadata ``page_starts`` tell where its pages begin, and its chunks on which of them they stand.

    A document's id is its path below ``path``, with forward slashes. In JSON Lines, ``{"id", "title", "text", ...}``,
    a line is a document with its own id, and every further key is metadata. Text is in the encoding of its byte order
    mark or of a page's declaration, else UTF-8, else in the encoding that charset-normalizer finds; bytes that were
    replaced and an encoding that is a guess are reported in a `DecodingWarning`.

    Args:
        path: A folder or a file.
        on_error: "skip" goes on after a file or line that cannot be read, and reports it in one `SkippedFilesWarning`
            at the end; "raise" stops there.
        max_bytes: Bytes of a file, or of a line of JSON Lines, at most; larger ones are skipped. None for no limit.
        follow_symlinks: Whether symbolic links that lead out of the folder are followed; else they are skipped.
        password: Opens encrypted PDF files.
        max_pages: Pages of a PDF at most; longer ones are skipped. None for no limit.
        seconds: The most time that a PDF may take; one that takes more is skipped. None for no limit.

    Raises:
        InputError: There is no such path, its kind is not known, or an argument is out of range; with
            ``on_error="raise"`` also the first file or line that cannot be read.
        MissingExtraError: A PDF or office file is there, and the extra ``documents`` is not installed.
    """
    root = Path(path)
    # Path("") is the working directory: a setting that was left empty must not read it.
    if not str(path) or not root.exists():
        raise InputError(f"{str(path)!r} does not exist: give a folder or a file of documents")
    if not (root.is_file() or root.is_dir()):
        raise InputError(f"{str(path)!r} is neither a file nor a folder, and is not read")
    if root.is_file() and root.suffix.lower() not in (known := readable_suffixes()):
        raise InputError(f"{str(path)!r} is none of {', '.join(known)}: convert it, or give a folder")
    if on_error not in ("skip", "raise"):
        raise InputError(f'on_error={on_error!r}: "skip" or "raise"')
    if max_bytes is not None and max_bytes < 1:
        raise InputError(f"max_bytes={max_bytes} must be 1 or more, or None for no limit")
    # The checks above are made when the function is called, not when the first document is read.
    pdf = PdfReader(password, max_pages, seconds)
    return _read(root, _Skipped(on_error), max_bytes, follow_symlinks, pdf)


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
            warning = SkippedFilesWarning(f"{len(self.reasons)} files or lines were skipped: {first}")
            warning.reasons = tuple(self.reasons)
            warnings.warn(warning, stacklevel=4)


def _read(
    root: Path, skipped: _Skipped, max_bytes: int | None, follow_symlinks: bool, pdf: PdfReader
) -> Iterator[Document]:
    with pdf:
        yield from _documents(root, skipped, max_bytes, follow_symlinks, _KINDS | {".pdf": pdf.document})
    skipped.say()


def _documents(
    root: Path, skipped: _Skipped, max_bytes: int | None, follow_symlinks: bool, kinds: Mapping[str, _Kind]
) -> Iterator[Document]:
    base = root.parent if root.is_file() else root
    for file in _files(root, skipped, follow_symlinks):
        # The bytes of a name that are no UTF-8 are written as \\xff: a document's id is text.
        name = os.fsencode(file.relative_to(base).as_posix()).decode("utf-8", errors="backslashreplace")
        suffix = file.suffix.lower()
        if suffix == ".jsonl":
            try:
                yield from _json_lines(file, name, skipped, max_bytes)
            except OSError as error:
                skipped.note(name, safe_message(error), error)
            continue
        if suffix not in kinds:
            # Files of another kind are not a failure: they are counted, and reading goes on.
            skipped.reasons.append(f"{name} (no kind that is read)")
            continue
        try:
            text, metadata = kinds[suffix](_bytes(file, max_bytes), name)
        except MissingExtraError:
            raise
        except Exception as error:  # noqa: BLE001 - parsers of foreign formats fail in ways of their own
            skipped.note(name, safe_message(error), error)
            continue
        yield Document(name, text, {"path": name} | metadata)


def _files(root: Path, skipped: _Skipped, follow_symlinks: bool) -> list[Path]:
    """The files to read, in the order of their paths."""
    if root.is_file():
        return [root]
    home = root.resolve()

    def outside(path: Path) -> bool:
        if follow_symlinks or not path.is_symlink() or path.resolve().is_relative_to(home):
            return False
        skipped.reasons.append(f"{path.relative_to(root).as_posix()} (a link out of the folder; follow_symlinks=True)")
        return True

    if (data_set := root / "documents.jsonl").is_file():
        return [] if outside(data_set) else [data_set]
    found: list[Path] = []
    seen = {home}

    def unreadable(error: OSError) -> None:
        skipped.note(Path(error.filename or root).relative_to(root).as_posix(), safe_message(error), error)

    for folder, folders, names in os.walk(root, onerror=unreadable, followlinks=follow_symlinks):
        here = Path(folder)
        folders[:] = [name for name in folders if not name.startswith(".")]
        if follow_symlinks:
            # A link to a folder above would be an endless loop.
            real = {name: (here / name).resolve() for name in folders}
            folders[:] = [name for name in folders if real[name] not in seen]
            seen.update(real[name] for name in folders)
        else:
            for name in folders:
                outside(here / name)
        for file in (here / name for name in names if not name.startswith(".")):
            if not file.is_file():
                skipped.reasons.append(f"{file.relative_to(root).as_posix()} (a broken link or no regular file)")
            elif not outside(file):
                found.append(file)
    return sorted(found)


def _bytes(file: Path, max_bytes: int | None) -> bytes:
    with file.open("rb") as stream:
        data = stream.read() if max_bytes is None else stream.read(max_bytes + 1)
    if max_bytes is not None and len(data) > max_bytes:
        raise InputError(_too_large(max_bytes))
    return data


def _too_large(max_bytes: int) -> str:
    return f"larger than max_bytes={max_bytes:,}: pass a larger limit, or None"


def _json_lines(file: Path, name: str, skipped: _Skipped, max_bytes: int | None) -> Iterator[Document]:
    for number, line in enumerate(_lines(file, max_bytes), start=1):
        where = f"{name}:{number}"
        if line is None:
            skipped.note(where, _too_large(max_bytes or 0))
            continue
        if not line.strip():
            continue
        try:
            values = load_json(line.removeprefix(codecs.BOM_UTF8), "the line", max_bytes=len(line))
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


def _lines(file: Path, max_bytes: int | None) -> Iterator[bytes | None]:
    """The lines of a file, in UTF-8; None for one that is longer than ``max_bytes``."""
    limit = -1 if max_bytes is None else max_bytes + 1
    with file.open("rb") as stream:
        if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            try:
                yield from decoded(_bytes(file, max_bytes), file.name).encode("utf-8", "replace").split(b"\n")
            except InputError:
                yield None
            return
        stream.seek(0)
        while line := stream.readline(limit):
            if len(line) == limit and not line.endswith(b"\n"):
                while (rest := stream.readline(limit)) and not rest.endswith(b"\n"):
                    pass
                yield None
            else:
                yield line


def _markdown(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    text = decoded_text(data, name)
    metadata: dict[str, Any] = {"format": "markdown"}
    for line in text[: front_matter_end(text)].splitlines():
        if match := _FRONT_MATTER.match(line):
            metadata.setdefault(match[1].lower(), match[2] or match[3] or match[4].partition(" #")[0].strip())
    if "title" not in metadata:
        title = next((heading.text for heading in markdown_headings(encodable(text)) if heading.level == 1), None)
        metadata |= {"title": title} if title else {}
    return text, metadata


def _text(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    return decoded_text(data, name), {"format": "text"}


def _html(data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    text, title = html_to_markdown(decoded_page(data, name))
    return text, {"format": "markdown"} | ({"title": title} if title else {})


_KINDS: dict[str, _Kind] = {
    ".md": _markdown,
    ".markdown": _markdown,
    ".txt": _text,
    ".html": _html,
    ".htm": _html,
    ".jsonl": _text,
    **FORMATS,
}
