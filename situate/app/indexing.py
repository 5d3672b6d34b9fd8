"""`index`: files into a store, with progress by the work that is done."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from situate.app.output import progress
from situate.app.web.settings import LOCAL, Place
from situate.app.web.store.records import RECORDS, Records
from situate.chunkers.readers.files import SkippedFilesWarning, read_documents
from situate.configuration.settings import Settings
from situate.errors import InputError
from situate.retrievers.index.documents import IndexReport, document_batches
from situate.retrievers.index.index import Index
from situate.retrievers.marks import printable
from situate.types import Chunk, Document

#: Characters that are indexed at once at first, and the seconds below which it becomes twice as many.
_PORTION, _QUICK = 20_000, 1.0


@dataclass
class Indexed:
    """What indexing did.

    Attributes:
        report: What was stored.
        characters: Characters of all documents that were read.
        seconds: Wall time.
        notes: Files that were not read, and why.
        pruned: Ids of documents that were deleted because their files are gone.
        interrupted: Whether it was stopped before the end.
    """

    report: IndexReport = field(default_factory=IndexReport)
    characters: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    pruned: tuple[str, ...] = ()
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        report = self.report
        return {
            "added": report.added,
            "replaced": report.replaced,
            "unchanged": report.unchanged,
            "chunks": report.chunks,
            "skipped": list(report.skipped),
            "refused": list(report.refused),
            "pruned": list(self.pruned),
            "notes": list(self.notes),
            "characters": self.characters,
            "seconds": round(self.seconds, 3),
            "interrupted": self.interrupted,
        }


def index_paths(
    settings: Settings, index: Index, paths: Sequence[Path], *, prune: bool = False, shown: bool = True
) -> Indexed:
    """Index files and folders. An interrupt leaves whole documents, and the next run goes on after them.

    Args:
        settings: Names the store, beside which documents get their ids.
        index: Takes the documents.
        paths: Files and folders.
        prune: Delete documents below ``paths`` whose files are gone.
        shown: Show a progress bar.

    Raises:
        InputError: A path does not exist, or two different documents have one id.
    """
    for path in paths:
        if not path.exists():
            raise InputError(f"{str(path)!r} does not exist: give a folder or a file of documents")
    index.open()
    started = time.perf_counter()
    done = Indexed()
    base = _base(settings)
    total = sum(map(_bytes, paths))
    with warnings.catch_warnings(record=True) as caught, progress("indexing", total, shown=shown) as advance:
        warnings.simplefilter("always")
        read, weight = 0, 0.0
        portion_read, documents = 0, list[Document]()

        def moved(characters: int) -> None:
            nonlocal read, portion_read
            read, portion_read = read + characters, portion_read + characters
            rate = read / max(time.perf_counter() - started, 1e-9)
            advance(weight * characters, f"{_worked_on(documents, portion_read)}, {rate:,.0f} characters/s")

        index.progress = moved
        try:
            sizes: dict[str, int] = {}
            portion = _PORTION
            for batch in document_batches((document, None) for document in _documents(paths, base, sizes)):
                waiting = [document for document, _ in batch]
                while waiting:
                    before = time.perf_counter()
                    documents = _taken(waiting, portion)
                    characters = sum(len(document.text) for document in documents)
                    portion_read = 0
                    weight = sum(sizes.pop(document.id, 0) for document in documents) / max(1, characters)
                    done.report += index.add(documents)
                    done.characters += characters
                    # Large enough for a device to be busy, small enough that an interrupt loses little.
                    portion = portion * 2 if time.perf_counter() - before < _QUICK else portion
        except KeyboardInterrupt:
            done.interrupted = True
        finally:
            index.progress = False
    if prune and not done.interrupted:
        uploaded = _uploaded(settings)
        gone = [each for each in index.document_ids() if each not in uploaded and _is_gone(each, paths, base)]
        # The lines of a data set have ids of their own, which name no files.
        done.pruned = tuple(dict.fromkeys(c.document_id for c in index.get_chunks(gone) if _is_file(c)))
        index.delete(done.pruned)
    done.notes = tuple(dict.fromkeys(note for one in caught for note in _notes(one.message)))
    done.seconds = time.perf_counter() - started
    return done


def _worked_on(documents: Sequence[Document], done: int) -> str:
    """What is indexed now: a document and its share that is done, or how many."""
    if len(documents) != 1:
        return f"{len(documents)} documents"
    (document,) = documents
    return f"{printable(document.id.rpartition('/')[2])} {min(1.0, done / max(1, len(document.text))):.0%}"


def _taken(waiting: list[Document], characters: int) -> list[Document]:
    """The first documents, taken out of the list, up to about so many characters; at least one."""
    taken = [waiting.pop(0)]
    while waiting and sum(len(document.text) for document in taken) + len(waiting[0].text) <= characters:
        taken.append(waiting.pop(0))
    return taken


def _is_gone(document_id: str, paths: Sequence[Path], base: Path) -> bool:
    """Whether a document is a file below one of the paths that is not there any more."""
    file = base / document_id
    below = any(file.is_relative_to(os.path.abspath(path)) for path in paths)
    return below and not os.path.lexists(file)


def _uploaded(settings: Settings) -> set[str]:
    """Documents that were uploaded to the chat application over the same index, whose files lie in its own folder."""
    file = Path(settings.chat.folder) / RECORDS
    return {record.id for record in Records(file).documents(Place(LOCAL))} if file.is_file() else set()


def _is_file(chunk: Chunk) -> bool:
    """Whether a chunk is one of a file, and not of a line of a data set."""
    return chunk.metadata.get("path") == chunk.document_id


def _documents(paths: Sequence[Path], base: Path, sizes: dict[str, int]) -> Iterator[Document]:
    """The documents below the paths; one that is a file has its path below ``base`` as id, wherever it was named.

    Args:
        paths: Files and folders.
        base: The folder of the store.
        sizes: Gets the bytes that each document takes in its file, by its id.
    """
    for path in paths:
        home = path if path.is_dir() else path.parent
        for document in read_documents(path):
            size = len(document.text.encode(errors="replace"))
            if document.metadata.get("path") == document.id:
                file = home / document.id
                size = file.stat().st_size if file.is_file() else size
                name = _document_id(file, base)
                document = replace(document, id=name, metadata={**document.metadata, "path": name})
            sizes[document.id] = size
            yield document


def _base(settings: Settings) -> Path:
    """The folder of the store; without one, the working directory."""
    folder = settings.store.folder
    return Path.cwd() if folder is None else folder.resolve().parent


def _document_id(path: Path, base: Path) -> str:
    absolute = Path(os.path.abspath(path))
    named = absolute.relative_to(base) if absolute.is_relative_to(base) else absolute
    return os.fsencode(named.as_posix()).decode("utf-8", errors="backslashreplace")


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))


def _notes(warning: Warning | str) -> Sequence[str]:
    """What a warning of ours says, file by file; nothing of other libraries' warnings."""
    if isinstance(warning, SkippedFilesWarning):
        return [f"not read: {reason}" for reason in warning.reasons]
    return [str(warning)] if type(warning).__module__.startswith("situate.") else []
