"""LlamaIndex documents and nodes <-> situate documents, chunks and hits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any

from llama_index.core.schema import (
    BaseNode,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)

from situate.chunkers.spans import base_context
from situate.integrations.llama_index.origin import Stamp, without_stamp
from situate.retrievers.types import Hit
from situate.types import Chunk, Context, Document

#: Metadata keys of LlamaIndex's readers, and what situate calls the same thing.
_READER_KEYS = {"file_path": "path", "creation_date": "date"}
#: Where a document that goes through an `Index` keeps how LlamaIndex shows it.
_VIEW_KEY = "_llama_index"


def to_document(node: BaseNode, *, keep_view: bool = False) -> Document:
    """A LlamaIndex document (or a node that is split further) as a situate document.

    ``file_path`` and ``creation_date``, which LlamaIndex's readers set, also count as ``path`` and ``date``.

    Args:
        node: The document.
        keep_view: Note in the metadata which keys are hidden from which model, for `to_node` to restore.
    """
    metadata = without_stamp(node.metadata)
    for theirs, ours in _READER_KEYS.items():
        if theirs in metadata:
            metadata.setdefault(ours, metadata[theirs])
    hidden = {"embed": node.excluded_embed_metadata_keys, "llm": node.excluded_llm_metadata_keys}
    if keep_view and any(hidden.values()):
        metadata[_VIEW_KEY] = hidden
    return Document(id=node.node_id, text=node.get_content(), metadata=metadata)


def to_chunk(node: BaseNode, index: int = 0) -> Chunk:
    """A node as a chunk. A node without offsets counts as the whole of its document."""
    stamp = Stamp.read(node)
    text = node.get_content()
    start, end = _span(node)
    return Chunk(
        id=node.node_id,
        document_id=node.ref_doc_id or node.node_id,
        index=index,
        text=text,
        start=start,
        end=end,
        context=stamp.context if stamp is not None else base_context(to_document(node)),
        metadata=without_stamp(node.metadata),
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
    """Put what situates a node into its metadata: rendered under ``key``, and whole into the stamp.

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
    replace(Stamp.read(node) or Stamp(), context=chunk.context).write(node)


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


def _span(node: BaseNode) -> tuple[int, int]:
    start, end = getattr(node, "start_char_idx", None), getattr(node, "end_char_idx", None)
    if isinstance(start, int) and isinstance(end, int):
        return start, end
    return 0, len(node.get_content())


def _listed(keys: Sequence[str], key: str, wanted: bool) -> list[str]:
    others = [other for other in keys if other != key]
    return [*others, key] if wanted else others
