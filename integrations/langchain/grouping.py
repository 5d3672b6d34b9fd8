"""Which documents a call of `SituateVectorStore.add_documents` is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from langchain_core.documents import Document as LangChainDocument

from situate.errors import InputError
from situate.integrations.langchain.documents import (
    STAMP_KEY,
    Stamp,
    assemble,
    document_id,
    to_chunk,
    to_document,
    version_of,
)
from situate.types import Chunk, Document

#: A document with its chunks.
Item: TypeAlias = tuple[Document, list[Chunk]]


@dataclass(frozen=True)
class Work:
    """What one call adds.

    Attributes:
        ids: The ids that the caller's documents are stored under, in order.
        whole: Documents that are still to be cut.
        cut: Documents all of whose chunks are here.
        partial: Documents some of whose chunks are here.
    """

    ids: list[str]
    whole: list[Document]
    cut: list[Item]
    partial: list[Siblings]


def prepared(documents: Iterable[LangChainDocument], ids: Sequence[str | None] | None, *, splits: bool) -> Work:
    """What a call is about.

    Args:
        documents: The caller's; left as they are.
        ids: Their ids, before those that they carry.
        splits: Whether documents without a stamp are cut by the store.

    Raises:
        InputError: There are not as many ids as documents, or a chunk was changed after splitting.
    """
    documents = list(documents)
    if ids is not None and len(ids) != len(documents):
        raise InputError(f"{len(ids)} ids for {len(documents)} documents: give one for each, None where there is none")
    given = ids if ids is not None else [None] * len(documents)
    names = [id or document_id(document) for id, document in zip(given, documents, strict=True)]
    whole: list[Document] = []
    chunks: list[Chunk] = []
    for name, document in zip(names, documents, strict=True):
        if splits and STAMP_KEY not in document.metadata:
            whole.append(to_document(document, name))
        else:
            chunks.append(to_chunk(document, name))
    together = _by_document(chunks)
    return Work(
        ids=names,
        whole=whole,
        cut=[siblings.item() for siblings in together if siblings.complete],
        partial=[siblings for siblings in together if not siblings.complete],
    )


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


def _by_document(chunks: Sequence[Chunk]) -> list[Siblings]:
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

    def item(self) -> Item:
        """The document, as far as its chunks know it, with the chunks in the order of the text."""
        chunks = [self._chunks[span] for span in sorted(self._chunks)]
        return assemble(chunks), chunks
