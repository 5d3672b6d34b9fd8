"""Which documents a call of `SituateVectorStore.add_documents` is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def by_document(chunks: Sequence[Chunk]) -> list[Siblings]:
    """The chunks of each document; of two versions of a document in one call the later one counts.

    Args:
        chunks: In the caller's order. Of two chunks at the same place the later one counts.
    """
    documents: dict[str, Siblings] = {}
    for chunk in chunks:
        siblings = documents.get(chunk.document_id)
        if siblings is None or siblings.version != version_of(chunk):
            siblings = documents[chunk.document_id] = Siblings(chunk.document_id, version_of(chunk))
        siblings.add(chunk)
    return list(documents.values())


class Siblings:
    """Chunks of one version of one document.

    Args:
        document_id: The document.
        version: The version, as `version_of` a chunk says it.
    """

    def __init__(self, document_id: str, version: str) -> None:
        self.document_id = document_id
        self.version = version
        self._chunks: dict[tuple[int, int], Chunk] = {}
        self._expected = 1

    @property
    def complete(self) -> bool:
        """Whether all chunks of the document are here."""
        return len(self._chunks) >= self._expected

    def add(self, chunk: Chunk) -> None:
        """Take a chunk in, in place of one with the same span."""
        stamp = Stamp.of(chunk.metadata)
        self._expected = max(self._expected, stamp.chunks if stamp is not None else 1)
        self._chunks[chunk.start, chunk.end] = chunk

    def join(self, stored: Iterable[Chunk]) -> None:
        """Take in stored chunks of the same version where there is none yet."""
        for chunk in stored:
            if version_of(chunk) == self.version:
                self._chunks.setdefault((chunk.start, chunk.end), chunk)

    def item(self) -> tuple[Document, list[Chunk]]:
        """The document, as far as its chunks know it, with the chunks in the order of the text."""
        chunks = [self._chunks[span] for span in sorted(self._chunks)]
        return assemble(chunks), chunks
