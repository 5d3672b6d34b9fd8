"""Text and spans -> vectors. The only room that imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.embedders._extension import Extension
    from situate.embedders.cross_encoder import CrossEncoderModel, PairScorer, PairScores
    from situate.embedders.embedder import Embedder
    from situate.embedders.encoder import Encoder
    from situate.embedders.families import Family, family_of
    from situate.embedders.library_encoder import LibraryEncoder
    from situate.embedders.models import ResolvedModel, resolve_model
    from situate.embedders.multivector import MultiVectorEmbedder
    from situate.embedders.quantization import Int8Quantizer, binarize, hamming_similarity
    from situate.embedders.remote import OpenAIEncoder, TEIEncoder
    from situate.embedders.seq2seq import DuelScorer, DuoT5Model, MonoT5Model
    from situate.embedders.sparse import SparseEmbedder, SparseVector
    from situate.embedders.types import (
        ChunkScheme,
        ChunkVectors,
        Encoded,
        SpanEncoder,
        SpanText,
    )
    from situate.embedders.vllm import VLLMEncoder

__all__ = [
    "ChunkScheme",
    "ChunkVectors",
    "CrossEncoderModel",
    "DuelScorer",
    "DuoT5Model",
    "Embedder",
    "Encoded",
    "Encoder",
    "Extension",
    "Family",
    "Int8Quantizer",
    "LibraryEncoder",
    "MonoT5Model",
    "MultiVectorEmbedder",
    "OpenAIEncoder",
    "PairScorer",
    "PairScores",
    "ResolvedModel",
    "SpanEncoder",
    "SpanText",
    "SparseEmbedder",
    "SparseVector",
    "TEIEncoder",
    "VLLMEncoder",
    "binarize",
    "family_of",
    "hamming_similarity",
    "resolve_model",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ChunkScheme": "types",
        "ChunkVectors": "types",
        "CrossEncoderModel": "cross_encoder",
        "DuelScorer": "seq2seq",
        "DuoT5Model": "seq2seq",
        "Encoded": "types",
        "Embedder": "embedder",
        "Encoder": "encoder",
        "Extension": "_extension",
        "Family": "families",
        "Int8Quantizer": "quantization",
        "LibraryEncoder": "library_encoder",
        "MultiVectorEmbedder": "multivector",
        "MonoT5Model": "seq2seq",
        "OpenAIEncoder": "remote",
        "PairScorer": "cross_encoder",
        "PairScores": "cross_encoder",
        "ResolvedModel": "models",
        "binarize": "quantization",
        "family_of": "families",
        "hamming_similarity": "quantization",
        "resolve_model": "models",
        "SpanEncoder": "types",
        "SpanText": "types",
        "SparseEmbedder": "sparse",
        "SparseVector": "sparse",
        "TEIEncoder": "remote",
        "VLLMEncoder": "vllm",
    },
)
