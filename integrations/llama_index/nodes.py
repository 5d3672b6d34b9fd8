"""LlamaIndex documents and nodes <-> situate documents, chunks and hits; the origin in a node's metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import (
    BaseNode,
    Document as LlamaDocument,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)
from pydantic import Field

from situate.chunkers.situators.generating import FAILED
from situate.chunkers.situators.summarising import SUMMARY_FAILED
from situate.chunkers.spans import base_context
from situate.embedders.types import ChunkScheme
from situate.errors import InputError
from situate.integrations._shared import pages
from situate.integrations._shared.marking import place_metadata, read_highlight, read_where
from situate.integrations._shared.origin import HIGHLIGHT_KEY, MATCHED_KEY, ORIGIN_KEY, WHERE_KEY, ChunkOrigin, digest
from situate.integrations._shared.splitting import read
from situate.outside import load_json
from situate.retrievers.marks import Highlight
from situate.retrievers.types import Hit
from situate.retrievers.where import Where
from situate.types import PAGE_METADATA, PAGE_SPAN, PAGE_STARTS, Chunk, Context, Document

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder

#: Metadata keys of LlamaIndex's readers, and situate's names for them.
_READER_KEYS = {"file_path": "path", "creation_date": "date"}
#: The metadata key under which a document in an `Index` keeps LlamaIndex's display settings.
_VIEW_KEY = "_llama_index"


class RetrievedNode(NodeWithScore):
    """A node with its score, and the failed steps of its query.

    Attributes:
        degraded: The optional steps that failed and were skipped, each with the reason; {} where none did.
        relevance: The node's relevance to the query, in [0, 1], on one scale for all queries (see
            `situate.retrievers.Hit`); None where no step gives one.
    """

    relevance: float | None = None
    degraded: dict[str, str] = Field(default_factory=dict)


def to_document(node: BaseNode, *, keep_view: bool = False) -> Document:
    """A LlamaIndex document (or a node that is split further) as a situate document.

    ``file_path`` and ``creation_date``, which LlamaIndex's readers set, also count as ``path`` and ``date``.

    Args:
        node: The document.
        keep_view: Note in the metadata which keys are hidden from which model, for `to_node` to restore.
    """
    own = without_origin(node.metadata)
    text, metadata = read(node.get_content(), own, own.get("file_path") or own.get("file_name") or own.get("source"))
    hidden = {"embed": node.excluded_embed_metadata_keys, "llm": node.excluded_llm_metadata_keys}
    view: dict[str, Any] = dict(hidden) if any(hidden.values()) else {}
    for theirs, ours in _READER_KEYS.items():
        if theirs not in metadata:
            continue
        if metadata.setdefault(ours, metadata[theirs]) == metadata[theirs] and ours in own:
            view.setdefault("own", []).append(ours)
    if keep_view and view:
        metadata[_VIEW_KEY] = view
    return Document(id=node.node_id, text=text, metadata=metadata)


def to_chunk(node: BaseNode, index: int = 0) -> Chunk:
    """A node as a chunk. A node without offsets counts as the whole of its document."""
    origin = read_origin(node)
    text = node.get_content()
    start, end = _span(node)
    return Chunk(
        id=node.node_id,
        document_id=node.ref_doc_id or node.node_id,
        index=index,
        text=text,
        start=start,
        end=end,
        context=origin.context if origin is not None else _context(node),
        metadata=without_origin(node.metadata),
    )


def to_node(chunk: Chunk) -> TextNode:
    """A chunk as a node with the chunk's id, offsets, metadata and a source relationship."""
    metadata = dict(chunk.metadata)
    hidden = metadata.pop(_VIEW_KEY, None) or {}
    for theirs, ours in _READER_KEYS.items():
        if theirs in metadata and metadata.get(ours) == metadata[theirs] and ours not in hidden.get("own", ()):
            del metadata[ours]
    return TextNode(
        id_=chunk.id,
        text=chunk.text,
        start_char_idx=chunk.start,
        end_char_idx=chunk.end,
        relationships={
            NodeRelationship.SOURCE: RelatedNodeInfo(node_id=chunk.document_id, node_type=ObjectType.DOCUMENT)
        },
        metadata=metadata,
        excluded_embed_metadata_keys=list(hidden.get("embed", ())),
        excluded_llm_metadata_keys=list(hidden.get("llm", ())),
    )


def write_context(
    node: BaseNode,
    chunk: Chunk,
    *,
    key: str,
    fields: Sequence[str],
    embed: bool = True,
    llm: bool = True,
    known: Mapping[str, Any] | None = None,
) -> None:
    """Write a node's context into its metadata: rendered under ``key``, and whole into the origin.

    Args:
        node: Changed in place.
        chunk: The node, situated.
        key: The metadata key of the rendered context.
        fields: The `Context` fields that are rendered.
        embed: Whether embedding models read the rendered context.
        llm: Whether language models read it.
        known: The metadata of the chunk's document: what its chunk has besides (its pages; a situator's mark that a
            language model failed) is copied, hidden from models.

    Raises:
        InputError: The metadata has ``key`` or the origin's key already, with another value.
    """
    if known is not None:
        added = {name: value for name, value in chunk.metadata.items() if name not in known or known[name] != value}
        hidden = (PAGE_STARTS, PAGE_METADATA) if PAGE_SPAN in added else ()
        own = {name: value for name, value in node.metadata.items() if name not in hidden}
        node.metadata = {**own, **added}
        for name in added:
            node.excluded_embed_metadata_keys = _listed(node.excluded_embed_metadata_keys, name, True)
            node.excluded_llm_metadata_keys = _listed(node.excluded_llm_metadata_keys, name, True)
    rendered = chunk.context.render(fields)
    origin = replace(read_origin(node) or ChunkOrigin(), context=chunk.context)
    if rendered:
        if key in node.metadata and origin.shown_as != key:
            raise InputError(
                f"the document's metadata has a key {key!r} of its own, where its context would be shown: pass "
                "context_key=, a name that no metadata has"
            )
        origin = replace(origin, shown_as=key)
        node.metadata = {**node.metadata, key: rendered}
        node.excluded_embed_metadata_keys = _listed(node.excluded_embed_metadata_keys, key, not embed)
        node.excluded_llm_metadata_keys = _listed(node.excluded_llm_metadata_keys, key, not llm)
    write_origin(node, origin)


def check_keys(node: BaseNode, *keys: str) -> None:
    """Refuse a document whose metadata has a key that its nodes need for their context or their origin.

    Raises:
        InputError: It has one.
    """
    for key in keys:
        if key in node.metadata and read_origin(node) is None:
            raise InputError(
                f"document {node.node_id!r} has a metadata key {key!r} of its own, where the context or the origin of "
                "its nodes would stand: rename it, or pass another context_key="
            )


def to_hit(found: NodeWithScore, index: int = 0, *, mode: MetadataMode = MetadataMode.NONE) -> Hit:
    """A node with its score as a hit; the chunk's text is the node's content in ``mode``."""
    chunk = to_chunk(found.node, index)
    if mode is not MetadataMode.NONE:
        chunk = replace(chunk, text=found.node.get_content(metadata_mode=mode), context=Context())
    return Hit(chunk=chunk, score=float(found.score or 0.0))


def to_scored_node(
    hit: Hit, *, key: str, fields: Sequence[str], degraded: Mapping[str, str], by_relevance: bool = False
) -> NodeWithScore:
    """A hit as a node with its score, or its relevance as the score; the context is written as `write_context` does."""
    node = to_node(hit.chunk)
    write_context(node, hit.chunk, key=key, fields=fields)
    write_place(node, hit)
    score = hit.relevance if by_relevance and hit.relevance is not None else hit.score
    return RetrievedNode(node=node, score=float(score), relevance=hit.relevance, degraded=dict(degraded))


def write_place(node: BaseNode, hit: Hit) -> None:
    """Write where a passage stands, and its marks where it has any, into a node's metadata, hidden from models."""
    place = place_metadata(hit)
    node.metadata = {**node.metadata, **place}
    for key in place:
        node.excluded_embed_metadata_keys = _listed(node.excluded_embed_metadata_keys, key, True)
        node.excluded_llm_metadata_keys = _listed(node.excluded_llm_metadata_keys, key, True)


def passage_where(found: BaseNode | NodeWithScore) -> Where | None:
    """Where a found passage stands: document, title, headings, pages, character span; None of other nodes."""
    return read_where(found.metadata)


def passage_highlight(found: BaseNode | NodeWithScore) -> Highlight | None:
    """The spans of a node's text that match the query best, with their forms for terminals, HTML and Markdown.

    None where nothing has marked any: see `SituateHighlighter`, and ``highlight=True`` of `SituateRetriever`.
    """
    return read_highlight(found.metadata, found.get_content())


def configuration(part: object) -> Any:
    """The settings of a chunker, situator or reranker as JSON values, by which LlamaIndex's caches distinguish them.

    A part with a language model is described with that model and its settings, never with an API key.
    """
    name = f"{type(part).__module__}.{type(part).__qualname__}"
    described: Any = repr(part) if is_dataclass(part) else name
    if callable(fingerprint := getattr(part, "fingerprint", None)):
        described = {"class": name, "configuration": fingerprint()}
    if is_dataclass(part) and (settings := _plain(part)) is not None and name.startswith("situate.chunkers."):
        described = {"class": name, "name": type(part).__name__, "settings": settings}
    asks = getattr(part, "generator", None)
    if asks is None:
        return described
    model = asks.configuration() if callable(getattr(asks, "configuration", None)) else type(asks).__qualname__
    return {"part": described, "model": model}


def part_from(described: Mapping[str, Any]) -> Any:
    """The chunker or situator that `configuration` described.

    Raises:
        InputError: It cannot be made from JSON values: it has a language model, or a tokenizer.
    """
    from situate import chunkers

    name, settings = described.get("name"), described.get("settings")
    if isinstance(name, str) and name in chunkers.__all__ and isinstance(settings, Mapping):
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
        return getattr(chunkers, name)(**values)
    raise InputError(
        f"{described.get('class', described)} was described for caches only and cannot be made again "
        "from that (it holds a model or a tokenizer): make the component anew, with splitter= and situators="
    )


def failed(chunks: Iterable[Chunk]) -> int:
    """How many of the chunks a language model left without context or summary."""
    return sum(FAILED in chunk.metadata or SUMMARY_FAILED in chunk.metadata for chunk in chunks)


# -- pages of one file ----------------------------------------------------------------------------------------------


def file_groups(nodes: Sequence[BaseNode], join_pages: bool = True, *, elements: bool = True) -> list[list[BaseNode]]:
    """The documents, those together that are the pages or elements of one file.

    Args:
        nodes: The documents; nodes that were cut from one stand alone.
        join_pages: False: each stands alone.
        elements: False: elements of a page stand alone.
    """
    if not join_pages:
        return [[node] for node in nodes]
    whole = [_as_loaded(node) if node.source_node is None else None for node in nodes]
    if not elements:
        whole = [None if document is None or pages.is_element(document) else document for document in whole]
    return [[nodes[place] for place in group] for group in pages.file_groups(pages.file_parts(whole))]


def _as_loaded(node: BaseNode) -> Document:
    """The document without the work of `to_document`."""
    return Document(node.node_id, node.get_content(), node.metadata)


def join_pages(documents: Sequence[LlamaDocument]) -> list[LlamaDocument]:
    """The documents, with the pages or elements of one file as one document, whose id is the file's path.

    LlamaIndex keeps its books by documents: a docstore, ``delete_ref_doc`` and ``refresh_ref_docs`` then know files,
    and a file of which a page has changed is read anew as a whole.

    Args:
        documents: As `SimpleDirectoryReader` or another reader returns them; left as they are.
    """
    result: list[LlamaDocument] = []
    given = [_as_loaded(page) for page in documents]
    parts = pages.file_parts(given)
    for group in pages.file_groups(parts):
        first = documents[group[0]]
        if parts[group[0]] is None:
            result.append(first)
            continue
        document = pages.joined([given[place] for place in group])
        hidden = [PAGE_STARTS, PAGE_METADATA]
        result.append(
            LlamaDocument(
                id_=document.id,
                text=document.text,
                metadata=dict(document.metadata),
                excluded_embed_metadata_keys=[*first.excluded_embed_metadata_keys, *hidden],
                excluded_llm_metadata_keys=[*first.excluded_llm_metadata_keys, *hidden],
            )
        )
    return result


# -- the origin in a node's metadata --------------------------------------------------------------------------------


def write_origin(node: BaseNode, origin: ChunkOrigin) -> None:
    """Write a node's origin into its metadata, hidden from models.

    The vector of a cached or stored node is valid only while model, scheme, document and text are still those that made
    it; with all four in the metadata, LlamaIndex's caches also distinguish two such nodes.
    """
    values: dict[str, Any] = {
        "model": origin.model,
        "scheme": origin.scheme,
        "doc_hash": origin.document_hash,
        "span": (origin.start, origin.end) if origin.end else None,
        "text": origin.text,
        "context": origin.context.to_dict(),
        "shown_as": origin.shown_as,
    }
    if ORIGIN_KEY in node.metadata and read_origin(node) is None:
        raise InputError(f"the metadata key {ORIGIN_KEY!r} is situate's own: rename it in {node.node_id!r}")
    text = json.dumps({k: v for k, v in values.items() if v}, sort_keys=True, ensure_ascii=False)
    node.metadata = {**node.metadata, ORIGIN_KEY: text}
    if ORIGIN_KEY not in node.excluded_embed_metadata_keys:
        node.excluded_embed_metadata_keys = [*node.excluded_embed_metadata_keys, ORIGIN_KEY]
    if ORIGIN_KEY not in node.excluded_llm_metadata_keys:
        node.excluded_llm_metadata_keys = [*node.excluded_llm_metadata_keys, ORIGIN_KEY]


def read_origin(node: BaseNode) -> ChunkOrigin | None:
    """The node's origin; None where its metadata has none, or a value that is not situate's."""
    raw = node.metadata.get(ORIGIN_KEY)
    try:
        values = load_json(raw, ORIGIN_KEY) if isinstance(raw, str) else None
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    span = values.get("span")
    start, end = span if isinstance(span, list) and len(span) == 2 else (0, 0)
    return ChunkOrigin(
        document_hash=str(values.get("doc_hash", "")),
        start=start,
        end=end,
        context=Context.from_dict(values.get("context") or {}),
        shown_as=str(values.get("shown_as", "")),
        model=str(values.get("model", "")),
        scheme=values.get("scheme"),
        text=str(values.get("text", "")),
    )


def holds_for(origin: ChunkOrigin, node: BaseNode, model: str) -> bool:
    """Whether the node's embedding is the late one of its present text by this model."""
    return (
        node.embedding is not None
        and bool(origin.model)
        and origin.model == model
        and origin.text == text_digest(node.get_content())
    )


def forget_vector(node: BaseNode) -> None:
    """Remove the vector's part of the origin; the node's context stays."""
    origin = read_origin(node)
    if origin is not None and origin.context != Context():
        write_origin(node, replace(origin, model="", scheme=None, text=""))
    else:
        node.metadata = without_origin(node.metadata)


def without_origin(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata without the origin, and without the place and the marks that a search added."""
    ours = (ORIGIN_KEY, WHERE_KEY, HIGHLIGHT_KEY, MATCHED_KEY)
    return {key: value for key, value in metadata.items() if key not in ours}


def text_digest(text: str) -> str:
    """16 hex digits that identify a text."""
    return digest(text)[:16]


def model_key(embedder: Embedder) -> str:
    """Names the encoder: two with the same key put the same text at the same place."""
    # Vectors of texts that fit are the same however longer ones are treated: nodes of before keep theirs.
    fingerprint = embedder.agreeing_with({"on_overflow": "cut"}).fingerprint
    values = {name: value for name, value in fingerprint.items() if name != "scheme"}
    return f"{values.get('model', '')}@{text_digest(json.dumps(values, sort_keys=True, default=str))}"


def scheme_key(scheme: ChunkScheme) -> dict[str, Any]:
    """The scheme's fields that differ from the default, as JSON values."""
    default = ChunkScheme().stored()
    return {name: value for name, value in scheme.stored().items() if value != default.get(name)}


def _context(node: BaseNode) -> Context:
    """The context of another parser's node: its document's metadata, and `MarkdownNodeParser`'s headings."""
    context = base_context(to_document(node))
    above = node.metadata.get("header_path")
    if isinstance(above, str):
        context = replace(context, headings=tuple(heading for heading in above.split("/") if heading.strip()))
    return context


def _span(node: BaseNode) -> tuple[int, int]:
    start, end = getattr(node, "start_char_idx", None), getattr(node, "end_char_idx", None)
    if isinstance(start, int) and isinstance(end, int):
        return start, end
    return 0, len(node.get_content())


def _listed(keys: Sequence[str], key: str, wanted: bool) -> list[str]:
    others = [other for other in keys if other != key]
    return [*others, key] if wanted else others


def _plain(part: Any) -> dict[str, Any] | None:
    """A dataclass's settings where all of them are JSON values."""
    values = {f.name: getattr(part, f.name) for f in fields(part) if f.init}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return plain if all(map(_is_plain, plain.values())) else None


def _is_plain(value: Any) -> bool:
    simple = str | int | float | None
    return isinstance(value, simple) or (isinstance(value, list) and all(isinstance(item, simple) for item in value))
