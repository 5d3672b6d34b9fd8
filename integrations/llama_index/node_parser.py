"""`LateChunkingNodeParser`: nodes whose vectors are made in the context of their document."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from llama_index.core.bridge.pydantic import Field, PrivateAttr, field_serializer, field_validator
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.node_parser import HierarchicalNodeParser, HTMLNodeParser, JSONNodeParser, NodeParser
from llama_index.core.node_parser.loading import load_parser
from llama_index.core.node_parser.node_utils import build_nodes_from_splits, default_id_func
from llama_index.core.schema import (
    BaseNode,
    Document as LlamaDocument,
    MetadataMode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.settings import Settings
from llama_index_instrumentation import get_dispatcher

from situate.chunkers.base import encodable
from situate.chunkers.spans import base_context, chunks_from_spans, recover_spans
from situate.embedders.types import ChunkScheme, ChunkVectors
from situate.errors import InputError, SpanError
from situate.integrations._shared.component import Configured, PicklesAsConfig
from situate.integrations._shared.origin import CONTEXT_KEY, ORIGIN_KEY, ChunkOrigin
from situate.integrations._shared.pages import PageBounds, cut_document, is_element, is_page, joined, page_bounds
from situate.integrations._shared.settings import ContextFields
from situate.integrations._shared.splitting import under_headings
from situate.integrations.llama_index.embedding import SituateEmbedding, default_embedding
from situate.integrations.llama_index.nodes import (
    check_keys,
    configuration,
    failed,
    file_groups,
    model_key,
    part_from,
    scheme_key,
    text_digest,
    to_document,
    write_context,
    write_origin,
)
from situate.progress import DocumentBar
from situate.types import PAGE_SPAN, PAGE_STARTS, Chunk, Chunker, Document, Situator, stable_id

dispatcher = get_dispatcher(__name__)

#: Documents that are split, situated and embedded together: many enough to fill the encoder's batches, few enough
#: that a progress bar moves and memory stays flat.
BATCH_DOCUMENTS = 64


@dataclass
class _Cut:
    """A document with its chunks and the nodes made of them.

    Attributes:
        document: The document that is embedded as a whole; pages of one file are joined.
        chunks: Spans of it.
        nodes: One per chunk.
        offsets: The number added to each span to get the node's offsets in its source; None where it has none.
    """

    document: Document
    chunks: list[Chunk]
    nodes: list[TextNode]
    offsets: list[int | None]


class LateChunkingNodeParser(Configured, PicklesAsConfig, NodeParser):
    """Splits documents and gives each node a vector made with the whole document in view.

    The vectors are in ``node.embedding``, so neither `VectorStoreIndex` nor `SituateEmbedding` in a pipeline makes
    them again. Their model and scheme are noted under one metadata key that no model reads. Late chunking: Guenther et
    al. 2024, arXiv:2409.04701.

    Node ids are derived from document id, span and text, so that the same document gives the same nodes; an
    ``id_func`` of yours (here or on the splitter) is used instead. Offsets are exact also where a text repeats.

    Pages of one file, as `SimpleDirectoryReader` makes them of a PDF (documents with the same path, each with a
    ``page_label``), are embedded and situated as one document, unless ``join_pages`` is False. LlamaIndex keeps
    its books by documents (docstore, ``delete_ref_doc``), so each node belongs to the page that it begins on and keeps
    its metadata; the rest of a sentence that runs over to the next page belongs to it too. Offsets count within the
    page; they are None where a node runs over, and in HTML source, which is read as Markdown. Where books are to be
    kept by files, and for the elements that Unstructured makes of a page, call `join_pages` on the documents first.

    With `HierarchicalNodeParser` as splitter the nodes of every level have late vectors, and parents and children stay
    related for `AutoMergingRetriever`. `HTMLNodeParser` and `JSONNodeParser` rewrite what they read: the text that
    their nodes make together counts as the document, and the nodes have no offsets.

    Attributes:
        embed_model: The model. The same object is best used as the index's ``embed_model``: it is loaded once. Without
            it, ``Settings.embed_model`` where that is a `SituateEmbedding`.
        splitter: Any LlamaIndex node parser whose nodes hold the document's own words in order, or any
            `situate.chunkers.Chunker`. None: Markdown by its structure and other text recursively, in chunks of up to
            ``chunk_size`` tokens of the model. The headings above a node are the document's, whatever cuts it.
        chunk_size: Size of the default splitter's chunks.
        scheme: How chunks become vectors: late chunking, mixed half and half with the chunk alone behind its headings.
        situators: Write the chunks' context (`situate.chunkers.Situator`), in this order, before the vectors are
            made; a ``scheme`` with ``context`` reads it.
        context_key: The metadata key that shows a node's context to language and embedding models. A document
            that has such a key of its own is refused.
        context_fields: The `Context` fields shown there; () for none.
        join_pages: Whether documents that are pages of one file are read together.
    """

    embed_model: SituateEmbedding = Field(default_factory=default_embedding, description="Makes the vectors.")
    shared_on_copy: ClassVar[tuple[str, ...]] = ("splitter", "situators")

    splitter: Any = Field(default=None, description="Any node parser or chunker; None for the default.")
    chunk_size: int = Field(default=200, gt=0, description="Tokens per chunk of the default splitter.")
    scheme: ChunkScheme = Field(
        default=ChunkScheme(late=True, context=("headings",)), description="How chunks become vectors."
    )
    situators: list[Any] = Field(default_factory=list, description="Write context before vectors are made.")
    context_key: str = Field(default=CONTEXT_KEY, min_length=1, description="Metadata key of the visible context.")
    context_fields: ContextFields = Field(default=("headings", "sentence"), description="Context shown there.")
    join_pages: bool = Field(default=True, description="Whether pages of one file are read together.")

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "LateChunkingNodeParser"

    @field_validator("splitter", mode="before")
    @classmethod
    def _check_splitter(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            value = load_parser(_with_default_ids(value)) if "class_name" in value else part_from(value)
        known = value is None or isinstance(value, NodeParser | Chunker)
        if known and type(value) is not str:  # str has a method of the same name
            return value
        raise InputError(
            f"splitter={value!r} is neither a LlamaIndex node parser nor a situate chunker with split(document)"
        )

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

    # The ingestion cache's key: two parsers that cut differently must have different ones.
    @field_serializer("splitter")
    def _write_splitter(self, value: Any) -> Any:
        if value is None:
            return None
        return value.to_dict() if isinstance(value, NodeParser) else configuration(value)

    @field_serializer("situators")
    def _write_situators(self, value: list[Any]) -> list[Any]:
        return [configuration(situator) for situator in value]

    _failures: int = PrivateAttr(default=0)

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """The configuration; after a situator failed, with a mark that keeps pipeline caches from its result."""
        return {**super().to_dict(**kwargs), **({"failures": self._failures} if self._failures else {})}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> LateChunkingNodeParser:
        """The parser that `to_dict` described.

        Raises:
            InputError: A situator asks a language model, or the chunker holds a tokenizer: no dictionary holds these.
        """
        given = {name: value for name, value in data.items() if name != "failures"}
        return super().from_dict(_with_default_ids(given), **kwargs)

    # -- NodeParser ---------------------------------------------------------------------------------------------

    def _parse_nodes(self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any) -> list[BaseNode]:
        parsed: list[BaseNode] = []
        groups = self._groups([_encodable(node) for node in nodes])
        with DocumentBar("Late chunking", _sizes(groups), show_progress) as bar:
            for batch in _batches(groups):
                cuts = self._cut(batch, **kwargs)
                for cut in cuts:
                    for situator in self.situators:
                        cut.chunks = situator.situate(cut.document, cut.chunks)
                items = [(cut.document, cut.chunks) for cut in cuts]
                with bar.batch(_sizes(batch)), self._embedding(cuts) as vectors:
                    vectors += self.embed_model.embedder.encode_chunks(items, scheme=self.scheme)
                parsed += self._finished(cuts, vectors)
        return parsed

    async def _aparse_nodes(
        self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any
    ) -> list[BaseNode]:
        parsed: list[BaseNode] = []
        groups = self._groups([_encodable(node) for node in nodes])
        with DocumentBar("Late chunking", _sizes(groups), show_progress) as bar:
            for batch in _batches(groups):
                cuts = await asyncio.to_thread(self._cut, batch, **kwargs)
                for situator in self.situators:
                    situated = await asyncio.gather(*(situator.asituate(cut.document, cut.chunks) for cut in cuts))
                    for cut, chunks in zip(cuts, situated, strict=True):
                        cut.chunks = chunks
                items = [(cut.document, cut.chunks) for cut in cuts]
                with bar.batch(_sizes(batch)), self._embedding(cuts) as vectors:
                    vectors += await self.embed_model.embedder.aencode_chunks(items, scheme=self.scheme)
                parsed += await asyncio.to_thread(self._finished, cuts, vectors)
        return parsed

    def _postprocess_parsed_nodes(
        self, nodes: list[BaseNode], parent_doc_map: dict[str, LlamaDocument]
    ) -> list[BaseNode]:
        # The base class searches each node's text in the document, which is wrong where the text repeats, makes
        # neighbours of the nodes of different levels, and copies the document's metadata once more.
        spans = [(getattr(node, "start_char_idx", None), getattr(node, "end_char_idx", None)) for node in nodes]
        beside = [
            {name: node.relationships[name] for name in _NEIGHBOURS if name in node.relationships} for node in nodes
        ]
        nodes = super()._postprocess_parsed_nodes(nodes, parent_doc_map)
        for node, (start, end), own in zip(nodes, spans, beside, strict=True):
            if PAGE_SPAN in node.metadata:
                node.metadata.pop(PAGE_STARTS, None)
            if isinstance(node, TextNode):
                node.start_char_idx, node.end_char_idx = start, end
            if node.relationships.keys() & _LEVELS:
                for name in _NEIGHBOURS:
                    node.relationships.pop(name, None)
                node.relationships.update(own if self.include_prev_next_rel else {})
        return nodes

    # -- steps that sync and async share ------------------------------------------------------------------------

    def _groups(self, nodes: Sequence[BaseNode]) -> list[list[BaseNode]]:
        """The documents with text, those together that are read as one."""
        with_text = [node for node in nodes if node.get_content().strip()]
        if empty := len(nodes) - len(with_text):
            from situate.retrievers.index.documents import EmptyDocumentWarning

            warnings.warn(
                f"{empty} of {len(nodes)} documents hold no text and gave no nodes", EmptyDocumentWarning, stacklevel=2
            )
        return list(file_groups(with_text, self.join_pages, elements=False))

    @contextmanager
    def _embedding(self, cuts: Sequence[_Cut]) -> Iterator[list[ChunkVectors]]:
        """Announces the embedding as LlamaIndex does, so that token counters count; yields the list of vectors."""
        vectors: list[ChunkVectors] = []
        model = self.embed_model
        managers = (self.callback_manager, model.callback_manager, Settings._callback_manager)
        manager = next((each for each in managers if each is not None and each.handlers), self.callback_manager)
        # Older versions of llama-index-core name their events' description of a model otherwise.
        payload = model.to_payload() if hasattr(model, "to_payload") else model.to_dict()
        described = {**payload, "late_chunking": True}
        dispatcher.event(EmbeddingStartEvent(model_dict=described))
        with manager.event(CBEventType.EMBEDDING, payload={EventPayload.SERIALIZED: described}) as event:
            yield vectors
            texts = [chunk.text for cut in cuts for chunk in cut.chunks]
            embeddings = [vector for each in vectors for vector in each.dense.tolist()]
            event.on_end(payload={EventPayload.CHUNKS: texts, EventPayload.EMBEDDINGS: embeddings})
        dispatcher.event(EmbeddingEndEvent(chunks=texts, embeddings=embeddings))

    def _cut(self, groups: Sequence[Sequence[BaseNode]], **kwargs: Any) -> list[_Cut]:
        if self.include_metadata:
            for page in (page for group in groups for page in group):
                check_keys(page, self.context_key, ORIGIN_KEY)
        splitter = self.splitter if self.splitter is not None else self._default_splitter()
        return [cut for group in groups for cut in self._cut_group(splitter, group, **kwargs)]

    def _cut_group(self, splitter: Any, pages: Sequence[BaseNode], **kwargs: Any) -> list[_Cut]:
        if isinstance(splitter, HierarchicalNodeParser):
            return [cut for page in pages for cut in self._cut_by_levels(splitter, page, **kwargs)]
        documents = [to_document(page) for page in pages]
        are_pages = self.join_pages and is_page(documents[0]) and not is_element(documents[0])
        # These two rewrite what they read, so that no sentence can be followed over a page's end.
        if not are_pages or isinstance(splitter, HTMLNodeParser | JSONNodeParser):
            return [
                self._cut_page(splitter, page, whole, **kwargs) for page, whole in zip(pages, documents, strict=True)
            ]
        file = joined(documents)
        cuts: list[_Cut] = []
        for page, whole, bounds in zip(pages, documents, page_bounds(file), strict=True):
            piece = replace(whole, text=file.text[bounds.start : bounds.end])
            cuts.append(_moved(self._cut_page(splitter, page, piece, **kwargs), file, page, whole, bounds))
        return [_together(file, cuts)]

    def _cut_page(self, splitter: Any, source: BaseNode, document: Document, **kwargs: Any) -> _Cut:
        """The cut of one document.

        Args:
            splitter: The splitter.
            source: What the nodes are related to.
            document: What is cut: the source as it is read; of a page, with what belongs to it of its neighbours.
            kwargs: Passed on to a parser.
        """
        if isinstance(splitter, NodeParser):
            return self._cut_by_parser(splitter, source, document, **kwargs)
        return self._cut_by_chunker(splitter, source, document)

    def _default_splitter(self) -> Chunker:
        from situate.chunkers import AutoChunker

        return AutoChunker.for_model(self.embed_model.embedder, self.chunk_size)

    def _cut_by_chunker(self, chunker: Chunker, source: BaseNode, document: Document) -> _Cut:
        chunks = cut_document(document, chunker)
        nodes = build_nodes_from_splits([chunk.text for chunk in chunks], source, id_func=self.id_func)
        self._name(nodes, chunks)
        offset = _offset(source) if document.text == source.get_content() else None
        return _Cut(document, chunks, nodes, [offset] * len(chunks))

    def _cut_by_parser(self, parser: NodeParser, source: BaseNode, document: Document, **kwargs: Any) -> _Cut:
        rewrites = isinstance(parser, HTMLNodeParser | JSONNodeParser)
        placed = not rewrites and document.text == source.get_content()
        nodes = _parsed(parser, source, None if placed or rewrites else document.text, **kwargs)
        if rewrites:
            document = replace(document, text="\n\n".join(node.text for node in nodes))
        try:
            spans = recover_spans(document.text, [node.text for node in nodes])
        except SpanError:
            # Overlap and stripped white space can make one piece of the text twice; one of the two is enough.
            nodes = [node for i, node in enumerate(nodes) if i == 0 or node.text != nodes[i - 1].text]
            spans = recover_spans(document.text, [node.text for node in nodes])
        chunks = under_headings(document, chunks_from_spans(document, spans))
        self._fit(source, nodes, chunks)
        if self.id_func is not default_id_func:
            for index, node in enumerate(nodes):
                node.id_ = self.id_func(index, source)
        elif parser.id_func is default_id_func:
            self._name(nodes, chunks)
        return _Cut(document, chunks, nodes, [_offset(source) if placed else None] * len(chunks))

    def _cut_by_levels(self, parser: HierarchicalNodeParser, source: BaseNode, **kwargs: Any) -> list[_Cut]:
        """One cut per level, so that neighbours are of the same level."""
        document = to_document(source)
        placed = document.text == source.get_content()
        nodes = _parsed(parser, source, None if placed else document.text, **kwargs)
        by_id = {node.node_id: node for node in nodes}
        children: dict[str, list[TextNode]] = {}
        for node in nodes:
            above = node.parent_node
            children.setdefault(above.node_id if above is not None else "", []).append(node)
        cuts: list[_Cut] = []
        taken: set[str] = set()
        renamed: dict[str, str] = {}
        level: list[tuple[str, int, int]] = [("", 0, len(document.text))]
        while level:
            cut = _Cut(document, [], [], [])
            below: list[tuple[str, int, int]] = []
            for parent, start, end in level:
                family = children.get(parent, [])
                within = recover_spans(document.text[start:end], [node.text for node in family])
                for node, (first, last) in zip(family, within, strict=True):
                    chunk = Chunk.of(document, len(cut.chunks), start + first, start + last, base_context(document))
                    below.append((node.node_id, chunk.start, chunk.end))
                    name = chunk.id
                    while name in taken:  # the same span on another level, or under two parents that overlap
                        name = stable_id(name, "again")
                    taken.add(name)
                    renamed[node.node_id] = name
                    cut.chunks.append(chunk)
                    cut.nodes.append(node)
                    cut.offsets.append(_offset(source) if placed else None)
            if cut.chunks:
                cut.chunks = under_headings(document, cut.chunks)
                self._fit(source, cut.nodes, cut.chunks)
                cuts.append(cut)
            level = below
        if self.id_func is default_id_func:
            for node in by_id.values():
                node.id_ = renamed.get(node.node_id, node.node_id)
        else:
            renamed = {name: self.id_func(index, source) for index, name in enumerate(by_id)}
            for name, node in by_id.items():
                node.id_ = renamed[name]
        _relate(by_id, children, renamed)
        return cuts

    def _fit(self, source: BaseNode, nodes: Sequence[TextNode], chunks: Sequence[Chunk]) -> None:
        for node, chunk in zip(nodes, chunks, strict=True):
            if node.text != chunk.text:  # the splitter rewrote white space; offsets and text have to agree
                node.text = chunk.text
            if not self.include_metadata:
                inherited = source.metadata
                node.metadata = {k: v for k, v in node.metadata.items() if k not in inherited or v != inherited[k]}
            for relation in _NEIGHBOURS:
                node.relationships.pop(relation, None)  # written anew, with the final ids

    def _name(self, nodes: Sequence[TextNode], chunks: Sequence[Chunk]) -> None:
        if self.id_func is default_id_func:
            for node, chunk in zip(nodes, chunks, strict=True):
                node.id_ = chunk.id

    def _finished(self, cuts: Sequence[_Cut], vectors: Sequence[ChunkVectors]) -> list[BaseNode]:
        finished: list[BaseNode] = []
        model, scheme = model_key(self.embed_model.embedder), scheme_key(self.scheme)
        for cut, encoded in zip(cuts, vectors, strict=True):
            doc_hash = cut.document.content_hash
            for node, chunk, vector, offset in zip(cut.nodes, cut.chunks, encoded.dense, cut.offsets, strict=True):
                node.embedding = vector.tolist()
                node.start_char_idx = node.end_char_idx = None
                if offset is not None:
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
        self._failures += failed(chunk for cut in cuts for chunk in cut.chunks)
        return finished


_NEIGHBOURS = (NodeRelationship.PREVIOUS, NodeRelationship.NEXT)
_LEVELS = {NodeRelationship.PARENT, NodeRelationship.CHILD}


def _batches(groups: Iterable[list[BaseNode]]) -> Iterator[list[list[BaseNode]]]:
    """Groups of documents that are encoded together, at least `BATCH_DOCUMENTS` documents but in the last."""
    batch: list[list[BaseNode]] = []
    for group in groups:
        batch.append(group)
        if sum(map(len, batch)) >= BATCH_DOCUMENTS:
            yield batch
            batch = []
    if batch:
        yield batch


def _sizes(groups: Iterable[Sequence[BaseNode]]) -> list[int]:
    """Characters of each group of documents."""
    return [sum(len(node.get_content()) for node in group) for group in groups]


def _encodable(node: BaseNode) -> BaseNode:
    """The node, or a copy with U+FFFD for lone surrogates, of which LlamaIndex makes no hash."""
    text = node.get_content(MetadataMode.NONE)
    if (readable := encodable(text)) == text:
        return node
    copy = node.model_copy()
    copy.set_content(readable)
    return copy


def _with_default_ids(described: Mapping[str, Any]) -> dict[str, Any]:
    """A parser's dictionary without the function that makes ids, of which LlamaIndex writes the name alone.

    Raises:
        InputError: It is another one than LlamaIndex's own.
    """
    given = dict(described)
    ids = given.pop("id_func", None)
    if isinstance(ids, Mapping) and ids.get("id_func_name") != default_id_func.__name__:
        raise InputError(f"id_func={ids.get('id_func_name')!r} was written by its name alone: pass id_func= again")
    return given if ids is None or isinstance(ids, Mapping) else {**given, "id_func": ids}


def _parsed(parser: NodeParser, source: BaseNode, text: str | None, **kwargs: Any) -> list[TextNode]:
    """The nodes that hold any text.

    Args:
        parser: The parser that cuts.
        source: The document to cut.
        text: Read in place of the source's own text.
        kwargs: Passed on.
    """
    if text is not None:
        source = source.model_copy()
        source.set_content(text)
    nodes = parser.get_nodes_from_documents([source], **kwargs)  # type: ignore[list-item]
    return [node for node in nodes if isinstance(node, TextNode) and node.text.strip()]


def _moved(cut: _Cut, file: Document, page: BaseNode, document: Document, bounds: PageBounds) -> _Cut:
    """The cut of a page as a part of its file's.

    Args:
        cut: The cut of the page.
        file: The file's pages as one document.
        page: The page.
        document: The page as it is read.
        bounds: Where its text stands in the file's.
    """
    placed = _offset(page) if document.text == page.get_content() else None
    chunks: list[Chunk] = []
    offsets: list[int | None] = []
    for chunk in cut.chunks:
        moved = Chunk.of(file, chunk.index, bounds.start + chunk.start, bounds.start + chunk.end, chunk.context)
        chunks.append(replace(moved, metadata={**chunk.metadata, **moved.metadata}))
        own = bounds.page <= moved.start and moved.end <= bounds.page + len(document.text)
        offsets.append(placed - bounds.page if placed is not None and own else None)
    return _Cut(file, chunks, cut.nodes, offsets)


def _together(file: Document, pages: Sequence[_Cut]) -> _Cut:
    """The cuts of a file's pages as one cut of the file."""
    chunks = [replace(chunk, index=i) for i, chunk in enumerate(chunk for page in pages for chunk in page.chunks)]
    return _Cut(
        file,
        under_headings(file, chunks, anew=True),
        [node for page in pages for node in page.nodes],
        [offset for page in pages for offset in page.offsets],
    )


def _relate(
    nodes: Mapping[str, TextNode], children: Mapping[str, Sequence[TextNode]], renamed: Mapping[str, str]
) -> None:
    """Write parents, children and neighbours anew, with the nodes' final ids."""

    def info(node: TextNode) -> RelatedNodeInfo:
        return RelatedNodeInfo(node_id=node.node_id, node_type=node.get_type())

    for parent, family in children.items():
        if parent in nodes:
            nodes[parent].relationships[NodeRelationship.CHILD] = [info(child) for child in family]
        for place, child in enumerate(family):
            if parent in nodes:
                child.relationships[NodeRelationship.PARENT] = info(nodes[parent])
            if place:
                child.relationships[NodeRelationship.PREVIOUS] = info(family[place - 1])
                family[place - 1].relationships[NodeRelationship.NEXT] = info(child)


def _offset(source: BaseNode) -> int:
    """Where the text that is split begins in the document that the nodes will name as their source."""
    start = getattr(source, "start_char_idx", None)
    return start if source.source_node is not None and isinstance(start, int) else 0
