"""`LateChunkingNodeParser`: nodes whose vectors know their document."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.bridge.pydantic import Field, field_serializer, field_validator
from llama_index.core.node_parser import NodeParser
from llama_index.core.node_parser.node_utils import build_nodes_from_splits, default_id_func
from llama_index.core.schema import BaseNode, Document as LlamaDocument, NodeRelationship, TextNode
from llama_index.core.utils import get_tqdm_iterable

from situate.chunkers.spans import chunks_from_spans, recover_spans
from situate.embedders.types import ChunkScheme, ChunkVectors
from situate.errors import InputError, SpanError
from situate.integrations._shared.component import Configured, PicklesAsConfig
from situate.integrations._shared.origin import ChunkOrigin
from situate.integrations.llama_index.embedding import SituateEmbedding, default_embedding
from situate.integrations.llama_index.nodes import (
    configuration,
    model_key,
    scheme_key,
    text_digest,
    to_document,
    write_context,
    write_origin,
)
from situate.types import Chunk, Chunker, Document, Situator

#: Documents that are split, situated and embedded together: many enough to fill the encoder's batches, few enough
#: that a progress bar moves and memory stays flat.
BATCH_DOCUMENTS = 64


@dataclass
class _Cut:
    """A document on its way: what it is cut into, and the nodes that are made of it."""

    source: BaseNode
    document: Document
    chunks: list[Chunk]
    nodes: list[TextNode]


class LateChunkingNodeParser(Configured, PicklesAsConfig, NodeParser):
    """Splits documents and gives each node a vector made in the light of the whole document.

    The vectors are in ``node.embedding``, so neither `VectorStoreIndex` nor `SituateEmbedding` in a pipeline makes
    them again. What made them is noted under one metadata key that no model reads. Late chunking: Guenther et al.
    2024, arXiv:2409.04701.

    Node ids are derived from document id, span and text, so that the same document gives the same nodes; an
    ``id_func`` of yours (here or on the splitter) is used instead. Offsets are exact also where a text repeats.

    Attributes:
        embed_model: The model. The same object is best used as the index's ``embed_model``: it is loaded once.
        splitter: Any LlamaIndex node parser whose nodes hold the document's own words in order, or any
            `situate.chunkers.Chunker`. None: Markdown by its structure and other text recursively, in chunks of up to
            ``chunk_size`` tokens of the model.
        chunk_size: Size of the default splitter's chunks.
        scheme: How chunks become vectors: late chunking, mixed half and half with the chunk alone behind its headings.
        situators: Write what situates the chunks (`situate.chunkers.Situator`), in this order, before the vectors are
            made; a ``scheme`` with ``context`` reads it.
        context_key: The metadata key that shows what situates a node to language and embedding models.
        context_fields: The `Context` fields shown there; () for none.
    """

    embed_model: SituateEmbedding = Field(default_factory=default_embedding, description="Makes the vectors.")
    splitter: Any = Field(default=None, description="Any node parser or chunker; None for the default.")
    chunk_size: int = Field(default=200, gt=0, description="Tokens per chunk of the default splitter.")
    scheme: ChunkScheme = Field(
        default=ChunkScheme(late=True, context=("headings",)), description="How chunks become vectors."
    )
    situators: list[Any] = Field(default_factory=list, description="Write context before vectors are made.")
    context_key: str = Field(default="context", min_length=1, description="Metadata key of the visible context.")
    context_fields: tuple[str, ...] = Field(default=("headings", "sentence"), description="Context shown there.")

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "LateChunkingNodeParser"

    @field_validator("splitter")
    @classmethod
    def _check_splitter(cls, value: Any) -> Any:
        known = value is None or isinstance(value, NodeParser | Chunker)
        if known and type(value) is not str:  # str has a method of the same name
            return value
        raise InputError(
            f"splitter={value!r} is neither a LlamaIndex node parser nor a situate chunker with split(document)"
        )

    @field_validator("situators")
    @classmethod
    def _check_situators(cls, value: list[Any]) -> list[Any]:
        for situator in value:
            if not isinstance(situator, Situator):
                raise InputError(f"{situator!r} is no situator: it needs situate(document, chunks) and asituate(...)")
        return value

    # What the ingestion cache goes by: two parsers that cut differently must never look alike.
    @field_serializer("splitter")
    def _write_splitter(self, value: Any) -> Any:
        if value is None:
            return None
        return value.to_dict() if isinstance(value, NodeParser) else configuration(value)

    @field_serializer("situators")
    def _write_situators(self, value: list[Any]) -> list[Any]:
        return [configuration(situator) for situator in value]

    # -- NodeParser ---------------------------------------------------------------------------------------------

    def _parse_nodes(self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any) -> list[BaseNode]:
        parsed: list[BaseNode] = []
        for batch in self._batches(nodes, show_progress):
            cuts = self._cut(batch, **kwargs)
            for cut in cuts:
                for situator in self.situators:
                    cut.chunks = situator.situate(cut.document, cut.chunks)
            items = [(cut.document, cut.chunks) for cut in cuts]
            parsed += self._finished(cuts, self.embed_model.embedder.encode_chunks(items, scheme=self.scheme))
        return parsed

    async def _aparse_nodes(
        self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any
    ) -> list[BaseNode]:
        parsed: list[BaseNode] = []
        for batch in self._batches(nodes, show_progress):
            cuts = await asyncio.to_thread(self._cut, batch, **kwargs)
            for situator in self.situators:
                situated = await asyncio.gather(*(situator.asituate(cut.document, cut.chunks) for cut in cuts))
                for cut, chunks in zip(cuts, situated, strict=True):
                    cut.chunks = chunks
            items = [(cut.document, cut.chunks) for cut in cuts]
            vectors = await self.embed_model.embedder.aencode_chunks(items, scheme=self.scheme)
            parsed += await asyncio.to_thread(self._finished, cuts, vectors)
        return parsed

    def _postprocess_parsed_nodes(
        self, nodes: list[BaseNode], parent_doc_map: dict[str, LlamaDocument]
    ) -> list[BaseNode]:
        # The base class searches each node's text in the document, which is wrong where the text repeats.
        spans = [(getattr(node, "start_char_idx", None), getattr(node, "end_char_idx", None)) for node in nodes]
        nodes = super()._postprocess_parsed_nodes(nodes, parent_doc_map)
        for node, (start, end) in zip(nodes, spans, strict=True):
            if isinstance(node, TextNode):
                node.start_char_idx, node.end_char_idx = start, end
        return nodes

    # -- steps that sync and async share ------------------------------------------------------------------------

    def _batches(self, nodes: Sequence[BaseNode], show_progress: bool) -> Iterator[list[BaseNode]]:
        batch: list[BaseNode] = []
        empty = 0
        for node in get_tqdm_iterable(nodes, show_progress, "Late chunking"):
            if not node.get_content().strip():
                empty += 1
                continue
            batch.append(node)
            if len(batch) == BATCH_DOCUMENTS:
                yield batch
                batch = []
        if batch:
            yield batch
        if empty:
            from situate.retrievers.index.documents import EmptyDocumentWarning

            warnings.warn(
                f"{empty} of {len(nodes)} documents hold no text and gave no nodes", EmptyDocumentWarning, stacklevel=2
            )

    def _cut(self, sources: Sequence[BaseNode], **kwargs: Any) -> list[_Cut]:
        splitter = self.splitter if self.splitter is not None else self._default_splitter()
        if isinstance(splitter, NodeParser):
            return [self._cut_by_parser(splitter, source, **kwargs) for source in sources]
        return [self._cut_by_chunker(splitter, source) for source in sources]

    def _default_splitter(self) -> Chunker:
        from situate.chunkers import AutoChunker

        return AutoChunker.for_model(self.embed_model.embedder, self.chunk_size)

    def _cut_by_chunker(self, chunker: Chunker, source: BaseNode) -> _Cut:
        document = to_document(source)
        chunks = chunker.split(document)
        nodes = build_nodes_from_splits([chunk.text for chunk in chunks], source, id_func=self.id_func)
        return self._named(source, document, chunks, nodes)

    def _cut_by_parser(self, parser: NodeParser, source: BaseNode, **kwargs: Any) -> _Cut:
        document = to_document(source)
        nodes = [
            node
            for node in parser.get_nodes_from_documents([source], **kwargs)  # type: ignore[list-item]
            if isinstance(node, TextNode) and node.text.strip()
        ]
        try:
            spans = recover_spans(document.text, [node.text for node in nodes])
        except SpanError:
            # Overlap and stripped white space can make one piece of the text twice; one of the two is enough.
            nodes = [node for i, node in enumerate(nodes) if i == 0 or node.text != nodes[i - 1].text]
            spans = recover_spans(document.text, [node.text for node in nodes])
        chunks = chunks_from_spans(document, spans)
        for node, chunk in zip(nodes, chunks, strict=True):
            if node.text != chunk.text:  # the splitter rewrote white space; offsets and text have to agree
                node.text = chunk.text
            if not self.include_metadata:
                inherited = source.metadata
                node.metadata = {k: v for k, v in node.metadata.items() if k not in inherited or v != inherited[k]}
            for relation in (NodeRelationship.PREVIOUS, NodeRelationship.NEXT):
                node.relationships.pop(relation, None)  # written anew, with the final ids
        if parser.id_func is not default_id_func and self.id_func is default_id_func:
            return _Cut(source, document, chunks, nodes)  # ids the splitter was told to give
        if self.id_func is not default_id_func:
            for index, node in enumerate(nodes):
                node.id_ = self.id_func(index, source)
        return self._named(source, document, chunks, nodes)

    def _named(self, source: BaseNode, document: Document, chunks: list[Chunk], nodes: list[TextNode]) -> _Cut:
        if self.id_func is default_id_func:
            for node, chunk in zip(nodes, chunks, strict=True):
                node.id_ = chunk.id
        return _Cut(source, document, chunks, nodes)

    def _finished(self, cuts: Sequence[_Cut], vectors: Sequence[ChunkVectors]) -> list[BaseNode]:
        finished: list[BaseNode] = []
        model, scheme = model_key(self.embed_model.embedder), scheme_key(self.scheme)
        for cut, encoded in zip(cuts, vectors, strict=True):
            doc_hash = cut.document.content_hash
            offset = _offset(cut.source)
            for node, chunk, vector in zip(cut.nodes, cut.chunks, encoded.dense, strict=True):
                node.embedding = vector.tolist()
                node.start_char_idx, node.end_char_idx = offset + chunk.start, offset + chunk.end
                origin = ChunkOrigin(
                    model=model,
                    scheme=scheme,
                    document_hash=doc_hash,
                    start=chunk.start,
                    end=chunk.end,
                    text=text_digest(chunk.text),
                )
                write_origin(node, origin)
                known = cut.document.metadata
                write_context(node, chunk, key=self.context_key, fields=self.context_fields, known=known)
                finished.append(node)
        return finished


def _offset(source: BaseNode) -> int:
    """Where the text that is split begins in the document that the nodes will name as their source."""
    start = getattr(source, "start_char_idx", None)
    return start if source.source_node is not None and isinstance(start, int) else 0
