"""Which documents a call of `SituateVectorStore.add_documents` is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from langchain_core.documents import Document as LangChainDocument

from situate.chunkers.errors import InputError
from situate.chunkers.types import Chunk, Document
from situate.integrations.langchain.documents import (
    STAMP_KEY,
    Stamp,
    assemble,
    document_id,
    to_chunk,
    to_document,
    version_of,
)

Named: TypeAlias = list[tuple[str, LangChainDocument]]


def named(documents: Sequence[LangChainDocument], ids: Sequence[str | None] | None) -> Named:
    """The documents with the ids that they are stored under.

    Raises:
        InputError: There are not as many ids as documents.
    """
    if ids is not None and len(ids) != len(documents):
        raise InputError(f"{len(ids)} ids for {len(documents)} documents: give one for each, None where there is none")
    given = ids if ids is not None else [None] * len(documents)
    return [(id or document_id(document), document) for id, document in zip(given, documents, strict=True)]


def from_texts(texts: Iterable[str], metadatas: Sequence[dict[str, Any]] | None) -> list[LangChainDocument]:
    """Texts as documents.

    Raises:
        InputError: There are not as many metadatas as texts.
    """
    texts = list(texts)  # a generator can be read once
    if metadatas and len(metadatas) != len(texts):
        raise InputError(f"{len(metadatas)} metadatas for {len(texts)} texts: give one for each, or none")
    return [
        LangChainDocument(page_content=text, metadata=metadata)
        for text, metadata in zip(texts, metadatas or [{} for _ in texts], strict=True)
    ]


def whole_and_cut(documents: Named, *, splits: bool) -> tuple[list[Document], list[Chunk]]:
    """What is still to be cut, and what is stored as it was cut.

    Args:
        documents: With their ids.
        splits: Whether documents without a stamp are cut here.
    """
    whole: list[Document] = []
    chunks: list[Chunk] = []
    for name, document in documents:
        if splits and STAMP_KEY not in document.metadata:
            whole.append(to_document(document, name))
        else:
            chunks.append(to_chunk(document, name))
    return whole, chunks


def with_siblings(
    chunks: Sequence[Chunk], stored: Callable[[Sequence[str]], Iterable[Chunk]]
) -> list[tuple[Document, list[Chunk]]]:
    """The chunks by document, where some are missing with those that are stored already.

    A chunk replaces the stored one at the same place. Of two versions of a document in one call the later one counts.

    Args:
        chunks: In the caller's order.
        stored: Looks up the stored chunks of documents.
    """
    documents: dict[str, dict[tuple[int, int], Chunk]] = {}
    versions: dict[str, str] = {}
    for chunk in chunks:
        version = version_of(chunk)
        if versions.get(chunk.document_id) != version:
            documents[chunk.document_id] = {}
        versions[chunk.document_id] = version
        documents[chunk.document_id][chunk.start, chunk.end] = chunk
    partial = [id for id, found in documents.items() if len(found) < _expected(found.values())]
    for sibling in stored(partial):
        if version_of(sibling) == versions[sibling.document_id]:
            documents[sibling.document_id].setdefault((sibling.start, sibling.end), sibling)
    return [(assemble(found.values()), list(found.values())) for found in documents.values()]


def _expected(chunks: Iterable[Chunk]) -> int:
    """How many chunks their document has."""
    stamps = [Stamp.of(chunk.metadata) for chunk in chunks]
    return max((stamp.chunks for stamp in stamps if stamp is not None), default=1)
