"""Documents before they are indexed: batches, chunks given by the caller, the hash of a version."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeAlias

from situate.chunkers.situators.generating import FAILED
from situate.chunkers.situators.summarising import SUMMARY_FAILED
from situate.errors import InputError, SpanError
from situate.retrievers.index.payload import stored_metadata, stored_text
from situate.types import Chunk, Context, Document, stable_id

#: Documents whose chunks are embedded and written together, at most, and the characters that end a batch: token vectors
#: of 200,000 characters take 75 MB.
BATCH_DOCUMENTS = 64
BATCH_CHARACTERS = 200_000

Item: TypeAlias = tuple[Document, Sequence[Chunk] | None]


class EmptyDocumentWarning(UserWarning):
    """Documents without text were not indexed."""


@dataclass(frozen=True)
class IndexReport:
    """What `Index.add` did.

    Attributes:
        added: Documents that were new.
        replaced: Documents whose earlier version was replaced.
        unchanged: Documents that were already stored, word for word.
        skipped: Ids of documents without any text.
        chunks: Chunks written.
        refused: Why documents were not stored, one text each.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: tuple[str, ...] = ()
    chunks: int = 0
    refused: tuple[str, ...] = ()

    def __add__(self, other: IndexReport) -> IndexReport:
        return IndexReport(
            self.added + other.added,
            self.replaced + other.replaced,
            self.unchanged + other.unchanged,
            self.skipped + other.skipped,
            self.chunks + other.chunks,
            self.refused + other.refused,
        )


def document_batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items in batches that end at `BATCH_DOCUMENTS` or `BATCH_CHARACTERS`.

    Raises:
        InputError: Two different documents have the same id.
    """
    contents: dict[str, bytes] = {}
    batch: list[Item] = []
    characters = 0
    for document, chunks in items:
        content = _content(document, chunks)
        if content is not None and contents.setdefault(document.id, content) != content:
            raise InputError(
                f"two different documents of one call have the id {document.id!r}, and only one of them could be "
                "stored: give each its own id, or add the one that counts"
            )
        batch.append((document, chunks))
        characters += 0 if content is None else len(document.text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _content(document: Document, chunks: Sequence[Chunk] | None) -> bytes | None:
    """16 bytes that differ where documents, or the chunks given with them, do; None for one that cannot be stored."""
    try:
        check_storable(document, chunks or ())
    except InputError:
        return None
    ids = () if chunks is None else (repr(chunk.id) for chunk in chunks)
    return hashlib.sha256("".join((document.content_hash, *ids)).encode()).digest()[:16]


def checked(document: Document, chunks: Sequence[Chunk]) -> list[Chunk]:
    """The caller's chunks, numbered in the order of the text."""
    seen: set[str] = set()
    for number, chunk in enumerate(chunks):
        where = f"chunk {number} of {len(chunks)} ({chunk.id}, span {chunk.start}-{chunk.end})"
        inside = 0 <= chunk.start <= chunk.end <= len(document.text)
        if chunk.document_id != document.id or not inside or document.text[chunk.start : chunk.end] != chunk.text:
            raise SpanError(
                f"{where} of document {chunk.document_id!r} does not hold that span of document {document.id!r}: cut "
                "the chunks from the text that you pass with them"
            )
        if chunk.id in seen:
            raise SpanError(f"{where} of document {document.id!r} is there twice: pass every chunk once")
        seen.add(chunk.id)
    ordered = sorted((chunk for chunk in chunks if chunk.text.strip()), key=lambda chunk: (chunk.start, chunk.end))
    return [replace(chunk, index=place) for place, chunk in enumerate(ordered)]


def checked_documents(documents: Iterable[Document]) -> Iterable[Document]:
    """The documents, if they are several.

    Raises:
        InputError: It is one document, or no collection of any.
    """
    if isinstance(documents, Document | str) or not isinstance(documents, Iterable):
        raise InputError(f"documents is a {type(documents).__name__}: give a list of Documents")
    return documents


def checked_ids(document_ids: Iterable[str]) -> list[str]:
    """The ids that a store can hold, if they are several.

    Raises:
        InputError: It is one id, or one of them is no text.
    """
    if isinstance(document_ids, str) or not isinstance(document_ids, Iterable):
        raise InputError(f"document_ids={document_ids!r:.60} is no list: give a list of ids")
    ids = list(document_ids)
    for each in ids:
        if not isinstance(each, str):
            raise InputError(f"the document id {each!r:.60} is a {type(each).__name__}: ids are text")
    return [each for each in ids if stored_text(each) == each]


def check_storable(document: Document, chunks: Sequence[Chunk] = ()) -> None:
    """Raise where a store could not hold a document with the chunks that the caller gives.

    Raises:
        InputError: It is no document, its id is empty or holds a lone surrogate, or metadata cannot be stored.
    """
    if not isinstance(document, Document):
        raise InputError(f"a {type(document).__name__} is no Document")
    if not isinstance(document.id, str) or not document.id:
        raise InputError(
            f"a document has {document.id!r} as its id, an empty id or no string: replacing and deleting need the id, "
            "so give it one"
        )
    if not isinstance(document.text, str) or not isinstance(document.metadata, Mapping):
        raise InputError(
            f"document {document.id!r} has a {type(document.text).__name__} as its text and a "
            f"{type(document.metadata).__name__} as its metadata: a string and a dictionary are needed"
        )
    if stored_text(document.id) != document.id:
        raise InputError(f"the document id {document.id!r} holds a lone surrogate, which no store can hold")
    stored_metadata(document.id, document.metadata)
    for chunk in chunks:
        stored_metadata(document.id, chunk.metadata)


def version_hash(document: Document, made_by: Iterable[object]) -> str:
    """The hash of a version of a document: its content, and the chunker and situators.

    Args:
        document: The document.
        made_by: The chunker and the situators; or the chunks, where the caller gives them.
    """
    return stable_id("document", document.id, document.content_hash, *map(_fingerprint, made_by))


def situated_hash(document_hash: str, chunks: Sequence[Chunk]) -> str:
    """The version's hash, or another one where chunks lack the answers of a language model.

    Such a document does not count as unchanged when it is added again, so its chunks are situated once more; if the
    same ones fail again, this hash is the stored one and nothing is embedded.
    """
    failed = [chunk.id + mark for chunk in chunks for mark in (FAILED, SUMMARY_FAILED) if mark in chunk.metadata]
    return stable_id("partly situated", document_hash, *failed) if failed else document_hash


def _fingerprint(part: object) -> str:
    """A chunker's or situator's settings, or a chunk, as text that is the same in every process."""
    if isinstance(part, Chunk):
        return f"({part.id!r}, {_context(part.context)}, {sorted(part.metadata.items())!r})"
    if callable(fingerprint := getattr(part, "fingerprint", None)):
        return json.dumps(fingerprint(), sort_keys=True, default=str)
    return repr(part) if is_dataclass(part) else f"{type(part).__module__}.{type(part).__qualname__}"


#: Fields of `Context` that came after the first stores: named only where they are set, so that a chunk without them
#: keeps the hash that it was stored with.
_LATER = ("rows", "answers", "propositions", "keyphrases", "levels")


def _context(context: Context) -> str:
    values = {each.name: getattr(context, each.name) for each in fields(context)}
    shown = (f"{name}={value!r}" for name, value in values.items() if value or name not in _LATER)
    return f"Context({', '.join(shown)})"


def with_warning(report: IndexReport) -> IndexReport:
    """The report, after a warning about the documents that were left out.

    Raises:
        InputError: Documents were refused; all others are stored.
    """
    if report.refused:
        raise InputError(
            "; ".join(report.refused[:5])
            + (f"; {len(report.refused) - 5} more" if len(report.refused) > 5 else "")
            + ". The other documents of the call are stored"
        )
    if report.skipped:
        warnings.warn(
            f"{len(report.skipped)} documents without text were not indexed: {', '.join(report.skipped[:5])}"
            + (" ..." if len(report.skipped) > 5 else ""),
            EmptyDocumentWarning,
            stacklevel=3,
        )
    return report
