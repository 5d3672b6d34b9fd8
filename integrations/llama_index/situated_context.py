"""`SituatedContext`: a node's context, written into its metadata."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from llama_index.core.bridge.pydantic import Field, PrivateAttr, field_serializer, field_validator
from llama_index.core.schema import BaseNode, TransformComponent
from llama_index.core.storage.docstore import BaseDocumentStore

from situate.errors import InputError
from situate.integrations._shared.component import Configured, PicklesAsConfig
from situate.integrations._shared.origin import CONTEXT_KEY
from situate.integrations._shared.pages import file_groups, file_parts, is_element, joined, page_bounds
from situate.integrations._shared.settings import ContextFields
from situate.integrations.llama_index.nodes import (
    configuration,
    failed,
    part_from,
    to_chunk,
    to_document,
    write_context,
)
from situate.types import Chunk, Document, Situator

_GAP = "\n"
_BETWEEN = "\n\n"


@dataclass
class _Group:
    """The nodes of one document, in its order."""

    document: Document
    nodes: list[BaseNode]
    chunks: list[Chunk]


class SituatedContext(Configured, PicklesAsConfig, TransformComponent):
    """Writes each node's context (headings, an LLM's sentence, ...) into its metadata.

    Nodes are taken together by document, so a situator sees whole documents and a language model's prompt cache is
    used per document. A document's text comes from ``docstore`` where that holds it; otherwise it is joined from its
    nodes, each at its offset, with line breaks in the gaps. Nodes without offsets are placed one after the other.
    Pages of one file (documents with the same path, each with a ``page_label``) are one document, unless
    ``join_pages`` is False: headings go on from page to page.

    Existing vectors stay as they are: in a pipeline put this before the embedding. For context in late-chunked vectors
    give the situators to `LateChunkingNodeParser` and a ``scheme`` with ``context``.

    A pipeline's cache keys its result by the situators' settings and their language model's. Where a situator
    failed, this object's next run does not take the result from the cache.

    Attributes:
        situators: Any `situate.chunkers.Situator`, applied in this order.
        context_key: The metadata key of the context. A node that has such a key of its own is refused.
        context_fields: The `Context` fields written there.
        embed: Whether embedding models read it.
        llm: Whether language models read it.
        docstore: The store that holds the documents, if any.
        join_pages: Whether nodes of the pages of one file are situated together.
    """

    shared_on_copy: ClassVar[tuple[str, ...]] = ("situators", "docstore")

    situators: list[Any] = Field(min_length=1, description="Write the context, in this order.")
    context_key: str = Field(default=CONTEXT_KEY, min_length=1, description="Metadata key of the context.")
    context_fields: ContextFields = Field(default=("headings", "sentence"), description="Context written there.")
    embed: bool = Field(default=True, description="Whether embedding models read the context.")
    llm: bool = Field(default=True, description="Whether language models read the context.")
    docstore: BaseDocumentStore | None = Field(default=None, exclude=True, description="Holds the documents.")
    join_pages: bool = Field(default=True, description="Whether pages of one file are situated together.")

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "SituatedContext"

    _failures: int = PrivateAttr(default=0)

    @field_validator("situators", mode="before")
    @classmethod
    def _check_situators(cls, value: Any) -> Any:
        value = [part_from(part) if isinstance(part, Mapping) else part for part in value]
        for situator in value:
            if not isinstance(situator, Situator):
                raise InputError(
                    f"{situator!r} is not a situator: it needs situate(document, chunks) and asituate(...)"
                )
        return value

    @field_serializer("situators")
    def _write_situators(self, value: list[Any]) -> list[Any]:
        return [configuration(situator) for situator in value]

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """The configuration; after a situator failed, with a mark that keeps pipeline caches from its result."""
        return {**super().to_dict(**kwargs), **({"failures": self._failures} if self._failures else {})}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """The component that `to_dict` described.

        Raises:
            InputError: A situator has a language model, which no dictionary holds.
        """
        return super().from_dict({name: value for name, value in data.items() if name != "failures"}, **kwargs)

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """The same nodes, changed in place."""
        for group in self._groups(nodes):
            for situator in self.situators:
                group.chunks = situator.situate(group.document, group.chunks)
            self._write(group)
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """`__call__` without blocking the event loop; documents are situated concurrently."""

        async def situated(group: _Group) -> None:
            for situator in self.situators:
                group.chunks = await situator.asituate(group.document, group.chunks)

        groups = await asyncio.to_thread(self._groups, nodes)
        await asyncio.gather(*(situated(group) for group in groups))
        for group in groups:
            self._write(group)
        return nodes

    def _write(self, group: _Group) -> None:
        self._failures += failed(group.chunks)
        for node, chunk in zip(group.nodes, group.chunks, strict=True):
            write_context(
                node,
                chunk,
                key=self.context_key,
                fields=self.context_fields,
                embed=self.embed,
                llm=self.llm,
                known=node.metadata,
            )

    def _groups(self, nodes: Sequence[BaseNode]) -> list[_Group]:
        by_document: dict[str, list[BaseNode]] = {}
        for node in nodes:
            by_document.setdefault(node.ref_doc_id or node.node_id, []).append(node)
        groups = [self._group(document_id, members) for document_id, members in by_document.items()]
        if not self.join_pages:
            return groups
        parts = file_parts([None if is_element(group.document) else group.document for group in groups])
        return [file for places in file_groups(parts) for file in _joined([groups[place] for place in places])]

    def _group(self, document_id: str, members: list[BaseNode]) -> _Group:
        known = self.docstore.get_document(document_id, raise_error=False) if self.docstore is not None else None
        if known is not None:
            document = to_document(known)
            chunks = [to_chunk(node) for node in members]
            if all(document.text[chunk.start : chunk.end] == chunk.text for chunk in chunks):
                return _ordered(document, members, chunks)
        return _rebuilt(document_id, members)


def _joined(pages: list[_Group]) -> list[_Group]:
    """The pages of a file as one group; as they are where a node ends in white space that joining leaves out."""
    if len(pages) == 1:
        return pages
    file = joined([page.document for page in pages])
    starts = [bounds.page for bounds in page_bounds(file)]
    chunks = [
        replace(chunk, document_id=file.id, start=start + chunk.start, end=start + chunk.end)
        for start, page in zip(starts, pages, strict=False)
        for chunk in page.chunks
    ]
    if len(starts) != len(pages) or any(file.text[chunk.start : chunk.end] != chunk.text for chunk in chunks):
        return pages
    return [_ordered(file, [node for page in pages for node in page.nodes], chunks)]


def _rebuilt(document_id: str, members: list[BaseNode]) -> _Group:
    """The document, as far as its nodes tell."""
    chunks = [to_chunk(node) for node in members]
    placed = all(getattr(node, "start_char_idx", None) is not None for node in members)
    text = _overlaid(chunks) if placed else None
    if text is None:
        end = 0
        for place, chunk in enumerate(chunks):
            chunks[place] = replace(chunk, start=end, end=end + len(chunk.text))
            end += len(chunk.text) + len(_BETWEEN)
        text = _BETWEEN.join(chunk.text for chunk in chunks)
    return _ordered(replace(to_document(members[0]), id=document_id, text=text), members, chunks)


def _overlaid(chunks: Sequence[Chunk]) -> str | None:
    """The text that holds every chunk at its offsets; None where they contradict each other."""
    letters = [_GAP] * max(chunk.end for chunk in chunks)
    for chunk in chunks:
        letters[chunk.start : chunk.end] = chunk.text
    text = "".join(letters)
    # A chunk whose text has another length than its span shifts everything after it, so this check finds it as well.
    return text if all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks) else None


def _ordered(document: Document, members: list[BaseNode], chunks: list[Chunk]) -> _Group:
    order = sorted(range(len(chunks)), key=lambda place: (chunks[place].start, chunks[place].end))
    return _Group(
        document,
        [members[place] for place in order],
        [replace(chunks[place], index=index) for index, place in enumerate(order)],
    )
