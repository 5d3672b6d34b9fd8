"""LlamaIndex documents and nodes <-> situate documents, chunks and hits; the origin in a node's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import (
    BaseNode,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)
from pydantic import Field

from situate.chunkers.spans import base_context
from situate.embedders.types import ChunkScheme
from situate.integrations._shared.origin import ORIGIN_KEY, ChunkOrigin, digest
from situate.outside import load_json
from situate.retrievers.types import Hit
from situate.types import Chunk, Context, Document

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder

#: Metadata keys of LlamaIndex's readers, and what situate calls the same thing.
_READER_KEYS = {"file_path": "path", "creation_date": "date"}
#: Where a document that goes through an `Index` keeps how LlamaIndex shows it.
_VIEW_KEY = "_llama_index"


class RetrievedNode(NodeWithScore):
    """A node with its score, and what went wrong on the way to it.

    Attributes:
        degraded: The optional steps that failed and were skipped, each with the reason; {} where none did.
    """

    degraded: dict[str, str] = Field(default_factory=dict)


def to_document(node: BaseNode, *, keep_view: bool = False) -> Document:
    """A LlamaIndex document (or a node that is split further) as a situate document.

    ``file_path`` and ``creation_date``, which LlamaIndex's readers set, also count as ``path`` and ``date``.

    Args:
        node: The document.
        keep_view: Note in the metadata which keys are hidden from which model, for `to_node` to restore.
    """
    metadata = without_origin(node.metadata)
    for theirs, ours in _READER_KEYS.items():
        if theirs in metadata:
            metadata.setdefault(ours, metadata[theirs])
    hidden = {"embed": node.excluded_embed_metadata_keys, "llm": node.excluded_llm_metadata_keys}
    if keep_view and any(hidden.values()):
        metadata[_VIEW_KEY] = hidden
    return Document(id=node.node_id, text=node.get_content(), metadata=metadata)


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
        context=origin.context if origin is not None else base_context(to_document(node)),
        metadata=without_origin(node.metadata),
    )


def to_node(chunk: Chunk) -> TextNode:
    """A chunk as a node with the chunk's id, offsets, metadata and a source relationship."""
    metadata = dict(chunk.metadata)
    hidden = metadata.pop(_VIEW_KEY, None) or {}
    for theirs, ours in _READER_KEYS.items():
        if theirs in metadata and metadata.get(ours) == metadata[theirs]:
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
    """Put what situates a node into its metadata: rendered under ``key``, and whole into the origin.

    Args:
        node: Changed in place.
        chunk: The node, situated.
        key: The metadata key of the rendered context.
        fields: The `Context` fields that are rendered.
        embed: Whether embedding models read the rendered context.
        llm: Whether language models read it.
        known: The metadata that the chunk had before it was situated: what situators added to it (a mark that a
            language model failed, say) is taken over, hidden from models.
    """
    if known is not None:
        added = {name: value for name, value in chunk.metadata.items() if name not in known}
        node.metadata = {**node.metadata, **added}
        for name in added:
            node.excluded_embed_metadata_keys = _listed(node.excluded_embed_metadata_keys, name, True)
            node.excluded_llm_metadata_keys = _listed(node.excluded_llm_metadata_keys, name, True)
    rendered = chunk.context.render(fields)
    if rendered:
        node.metadata = {**node.metadata, key: rendered}
        node.excluded_embed_metadata_keys = _listed(node.excluded_embed_metadata_keys, key, not embed)
        node.excluded_llm_metadata_keys = _listed(node.excluded_llm_metadata_keys, key, not llm)
    write_origin(node, replace(read_origin(node) or ChunkOrigin(), context=chunk.context))


def to_hit(found: NodeWithScore, index: int = 0, *, mode: MetadataMode = MetadataMode.NONE) -> Hit:
    """A node with its score as a hit, the chunk's text being what ``mode`` shows of the node."""
    chunk = to_chunk(found.node, index)
    if mode is not MetadataMode.NONE:
        chunk = replace(chunk, text=found.node.get_content(metadata_mode=mode), context=Context())
    return Hit(chunk=chunk, score=float(found.score or 0.0))


def to_scored_node(hit: Hit, *, key: str, fields: Sequence[str]) -> NodeWithScore:
    """A hit as a node with its score; the chunk's context is written as `write_context` does."""
    node = to_node(hit.chunk)
    write_context(node, hit.chunk, key=key, fields=fields)
    return NodeWithScore(node=node, score=float(hit.score))


def configuration(part: object) -> Any:
    """What a chunker or situator does, as JSON values: what LlamaIndex's caches tell two of them apart by."""
    name = f"{type(part).__module__}.{type(part).__qualname__}"
    if callable(fingerprint := getattr(part, "fingerprint", None)):
        return {"class": name, "configuration": fingerprint()}
    return repr(part) if is_dataclass(part) else name


# -- the origin in a node's metadata --------------------------------------------------------------------------------


def write_origin(node: BaseNode, origin: ChunkOrigin) -> None:
    """Put where a node comes from into its metadata, hidden from what models read.

    A cached or stored node is only worth its vector while model, scheme, document and text are still the ones that
    made it; that all four are in the metadata also tells LlamaIndex's caches two such nodes apart.
    """
    values: dict[str, Any] = {
        "model": origin.model,
        "scheme": origin.scheme,
        "doc_hash": origin.document_hash,
        "span": (origin.start, origin.end) if origin.end else None,
        "text": origin.text,
        "context": origin.context.to_dict(),
    }
    text = json.dumps({k: v for k, v in values.items() if v}, sort_keys=True, ensure_ascii=False)
    node.metadata = {**node.metadata, ORIGIN_KEY: text}
    for hidden in (node.excluded_embed_metadata_keys, node.excluded_llm_metadata_keys):
        if ORIGIN_KEY not in hidden:
            hidden.append(ORIGIN_KEY)


def read_origin(node: BaseNode) -> ChunkOrigin | None:
    """Where the node comes from; None where its metadata does not say, or holds a value that is not ours."""
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
    """Take the vector's part of the origin away; what situates the node stays."""
    origin = read_origin(node)
    if origin is not None and origin.context != Context():
        write_origin(node, replace(origin, model="", scheme=None, text=""))
    else:
        node.metadata = without_origin(node.metadata)


def without_origin(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata without the origin."""
    return {key: value for key, value in metadata.items() if key != ORIGIN_KEY}


def text_digest(text: str) -> str:
    """16 hex digits that identify a text."""
    return digest(text)[:16]


def model_key(embedder: Embedder) -> str:
    """Names the encoder: two with the same key put the same text at the same place."""
    values = {name: value for name, value in embedder.fingerprint.items() if name != "scheme"}
    return f"{values.get('model', '')}@{text_digest(json.dumps(values, sort_keys=True, default=str))}"


def scheme_key(scheme: ChunkScheme) -> dict[str, Any]:
    """The scheme's fields that differ from the default, as JSON values."""
    default = ChunkScheme()
    values = asdict(scheme)
    return {f.name: values[f.name] for f in fields(scheme) if values[f.name] != getattr(default, f.name)}


def _span(node: BaseNode) -> tuple[int, int]:
    start, end = getattr(node, "start_char_idx", None), getattr(node, "end_char_idx", None)
    if isinstance(start, int) and isinstance(end, int):
        return start, end
    return 0, len(node.get_content())


def _listed(keys: Sequence[str], key: str, wanted: bool) -> list[str]:
    others = [other for other in keys if other != key]
    return [*others, key] if wanted else others
