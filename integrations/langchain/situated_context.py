"""`SituatedContextTransformer`: situators as a LangChain document transformer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from langchain_core.documents import BaseDocumentTransformer, Document as LangChainDocument

from situate.errors import InputError
from situate.integrations._shared.component import refuse_unknown
from situate.integrations._shared.origin import ORIGIN_KEY
from situate.integrations.langchain.documents import (
    START_INDEX,
    assemble,
    from_situated,
    situated_text,
    to_chunk,
    version_of,
)
from situate.parameters import checked_parameters
from situate.types import Chunk, Context, Document, Situator

Into: TypeAlias = Literal["metadata", "text"]


@checked_parameters
class SituatedContextTransformer(BaseDocumentTransformer):
    """Writes each chunk's context in its document.

    Chunks that `SituateTextSplitter` cut are grouped by their document, whose text the situators see; a document that
    was not split counts as its own only chunk. All chunks of a document belong in one call.

    Args:
        situators: Run in this order.
        into: "metadata" leaves the text alone and notes the context in the chunk's origin, where `SituateVectorStore`,
            `chunk_context` and `situated_text` find it. "text" writes the context in front of the text and drops the
            origin, for stores and embeddings of other libraries.
        fields: `Context` fields that are written into the text.

    Raises:
        InputError: ``into`` is neither.
    """

    def __init__(
        self,
        situators: Sequence[Situator],
        *,
        into: Into = "metadata",
        fields: Sequence[str] = ("title", "headings", "sentence"),
    ) -> None:
        if into not in ("metadata", "text"):
            raise InputError(f'into={into!r}: "metadata" or "text"')
        self.situators = tuple(situators)
        self.into = into
        Context().render(fields)  # refuses what is no list of fields
        self.fields = tuple(fields)

    def transform_documents(self, documents: Sequence[LangChainDocument], **kwargs: Any) -> Sequence[LangChainDocument]:
        """The documents in their order, situated. The given ones are not changed."""
        refuse_unknown("transform_documents", kwargs)
        documents = list(documents)
        situated: dict[int, Chunk] = {}
        for document, members in _by_document(documents):
            chunks = [chunk for _, chunk in members]
            for situator in self.situators:
                chunks = situator.situate(document, chunks)
            situated.update(zip([place for place, _ in members], chunks, strict=True))
        return [self._written(situated[place]) for place in range(len(documents))]

    async def atransform_documents(
        self, documents: Sequence[LangChainDocument], **kwargs: Any
    ) -> Sequence[LangChainDocument]:
        """`transform_documents` without blocking the event loop."""
        refuse_unknown("atransform_documents", kwargs)
        documents = list(documents)
        situated: dict[int, Chunk] = {}
        for document, members in await asyncio.to_thread(_by_document, documents):
            chunks = [chunk for _, chunk in members]
            for situator in self.situators:
                chunks = await situator.asituate(document, chunks)
            situated.update(zip([place for place, _ in members], chunks, strict=True))
        return [self._written(situated[place]) for place in range(len(documents))]

    def _written(self, chunk: Chunk) -> LangChainDocument:
        written = from_situated(chunk)
        if self.into == "text":
            written.page_content = situated_text(written, self.fields)
            for key in (ORIGIN_KEY, START_INDEX):
                written.metadata.pop(key, None)
        return written


def _by_document(documents: Sequence[LangChainDocument]) -> list[tuple[Document, list[tuple[int, Chunk]]]]:
    """Each document with its chunks, in the order of the text, and their places in the call."""
    groups: dict[tuple[str, str], list[tuple[int, Chunk]]] = {}
    for place, given in enumerate(documents):
        chunk = to_chunk(given)
        groups.setdefault((chunk.document_id, version_of(chunk)), []).append((place, chunk))
    for members in groups.values():
        members.sort(key=lambda member: (member[1].start, member[1].end))
    return [(assemble(chunk for _, chunk in members), members) for members in groups.values()]
