"""The one metadata key that situate adds to a node: what its vector is, and what situates it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import BaseNode

from situate.embedders.types import ChunkScheme
from situate.outside import load_json
from situate.types import Context

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder

#: The metadata key. Its value is text (JSON), because several vector stores take only flat metadata.
STAMP_KEY = "situate"


@dataclass(frozen=True)
class Stamp:
    """Where a node came from, and which vector it carries.

    A cached or stored node is only worth its vector while model, scheme, document and text are still the ones that
    made it; that all four are in the metadata also tells LlamaIndex's caches two such nodes apart.

    Attributes:
        model: The encoder, by `model_key`; "" where the node carries no vector of ours.
        scheme: The `ChunkScheme` fields that differ from the default.
        doc_hash: The document's `content_hash`.
        span: ``[start, end)`` in the document's text.
        text: Digest of the node's text.
        context: What situates the node.
    """

    model: str = ""
    scheme: Mapping[str, Any] | None = None
    doc_hash: str = ""
    span: tuple[int, int] | None = None
    text: str = ""
    context: Context = field(default_factory=Context)

    def write(self, node: BaseNode) -> None:
        """Put the stamp into the node's metadata, hidden from what models read."""
        values: dict[str, Any] = {
            "model": self.model,
            "scheme": self.scheme,
            "doc_hash": self.doc_hash,
            "span": self.span,
            "text": self.text,
            "context": self.context.to_dict(),
        }
        node.metadata = {
            **node.metadata,
            STAMP_KEY: json.dumps({k: v for k, v in values.items() if v}, sort_keys=True, ensure_ascii=False),
        }
        node.excluded_embed_metadata_keys = _with_key(node.excluded_embed_metadata_keys)
        node.excluded_llm_metadata_keys = _with_key(node.excluded_llm_metadata_keys)

    @classmethod
    def read(cls, node: BaseNode) -> Stamp | None:
        """The node's stamp; None where it has none, or one that is not ours."""
        raw = node.metadata.get(STAMP_KEY)
        try:
            values = load_json(raw, STAMP_KEY) if isinstance(raw, str) else None
        except ValueError:
            return None
        if not isinstance(values, dict):
            return None
        span = values.get("span")
        return cls(
            model=str(values.get("model", "")),
            scheme=values.get("scheme"),
            doc_hash=str(values.get("doc_hash", "")),
            span=(span[0], span[1]) if isinstance(span, list) and len(span) == 2 else None,
            text=str(values.get("text", "")),
            context=Context.from_dict(values.get("context") or {}),
        )

    def holds_for(self, node: BaseNode, model: str) -> bool:
        """Whether the node's embedding is the late one of its present text by this model."""
        return (
            node.embedding is not None
            and bool(self.model)
            and self.model == model
            and self.text == text_digest(node.get_content())
        )


def remove_stamp(node: BaseNode) -> None:
    """Take the vector's part of the stamp away; what situates the node stays."""
    stamp = Stamp.read(node)
    if stamp is not None and stamp.context != Context():
        Stamp(context=stamp.context, span=stamp.span, doc_hash=stamp.doc_hash).write(node)
    else:
        node.metadata = without_stamp(node.metadata)


def without_stamp(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata without the stamp."""
    return {key: value for key, value in metadata.items() if key != STAMP_KEY}


def text_digest(text: str) -> str:
    """16 hex digits that identify a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def model_key(embedder: Embedder) -> str:
    """Names the encoder: two with the same key put the same text at the same place."""
    values = {name: value for name, value in embedder.fingerprint.items() if name != "scheme"}
    return f"{values.get('model', '')}@{text_digest(json.dumps(values, sort_keys=True, default=str))}"


def scheme_key(scheme: ChunkScheme) -> dict[str, Any]:
    """The scheme's fields that differ from the default, as JSON values."""
    default = ChunkScheme()
    values = asdict(scheme)
    return {f.name: values[f.name] for f in fields(scheme) if values[f.name] != getattr(default, f.name)}


def _with_key(keys: list[str]) -> list[str]:
    return list(keys) if STAMP_KEY in keys else [*keys, STAMP_KEY]
