"""Text and spans -> vectors. The only room that imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.embedders.encoder import Encoder
    from situate.embedders.types import (
        ChunkScheme,
        ChunkVectors,
        Encoded,
        SpanEncoder,
        SpanText,
    )

__all__ = ["ChunkScheme", "ChunkVectors", "Encoded", "Encoder", "SpanEncoder", "SpanText"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ChunkScheme": "types",
        "ChunkVectors": "types",
        "Encoded": "types",
        "Encoder": "encoder",
        "SpanEncoder": "types",
        "SpanText": "types",
    },
)
