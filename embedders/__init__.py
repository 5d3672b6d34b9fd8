"""Text and spans -> vectors. The only room that imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.embedders.bridge import Bridge as Bridge
    from situate.embedders.embedder import Embedder as Embedder
    from situate.embedders.library.encoder import LibraryEncoder as LibraryEncoder
    from situate.embedders.library.multivector import MultiVectorEmbedder as MultiVectorEmbedder
    from situate.embedders.library.sparse import SparseEmbedder as SparseEmbedder
    from situate.embedders.local.encoder import Encoder as Encoder
    from situate.embedders.models.extension import Extension as Extension
    from situate.embedders.models.families import Family as Family
    from situate.embedders.models.prompts import PromptFamily as PromptFamily
    from situate.embedders.models.registry import family_of as family_of
    from situate.embedders.models.resolve import (
        LoadOptions as LoadOptions,
        ResolvedModel as ResolvedModel,
        resolve_model as resolve_model,
    )
    from situate.embedders.models.settings import EmbedderSettings as EmbedderSettings
    from situate.embedders.pairs.answers import AnswerModel as AnswerModel
    from situate.embedders.pairs.cross_encoder import (
        CrossEncoderModel as CrossEncoderModel,
        PairScorer as PairScorer,
        PairScores as PairScores,
    )
    from situate.embedders.pairs.decoder import Decoder as Decoder
    from situate.embedders.pairs.likelihood import (
        LikelihoodTemplate as LikelihoodTemplate,
        QueryLikelihoodModel as QueryLikelihoodModel,
    )
    from situate.embedders.pairs.t5 import (
        DuelScorer as DuelScorer,
        DuoT5Model as DuoT5Model,
        MonoT5Model as MonoT5Model,
        QualityT5Model as QualityT5Model,
    )
    from situate.embedders.promptreps import PromptRepsEmbedder as PromptRepsEmbedder
    from situate.embedders.quantization import (
        Int8Quantizer as Int8Quantizer,
        binarize as binarize,
        hamming_similarity as hamming_similarity,
    )
    from situate.embedders.remote.generator import OpenAIGenerator as OpenAIGenerator
    from situate.embedders.remote.http import HttpSettings as HttpSettings
    from situate.embedders.remote.openai import OpenAIEncoder as OpenAIEncoder
    from situate.embedders.remote.tei import TEIEncoder as TEIEncoder
    from situate.embedders.remote.vllm import VLLMEncoder as VLLMEncoder
    from situate.embedders.types import (
        ChunkScheme as ChunkScheme,
        ChunkVectors as ChunkVectors,
        Encoded as Encoded,
        SpanEncoder as SpanEncoder,
        SpanText as SpanText,
        SparseVector as SparseVector,
    )

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "situate.embedders.bridge": ("Bridge",),
        "situate.embedders.embedder": ("Embedder",),
        "situate.embedders.library.encoder": ("LibraryEncoder",),
        "situate.embedders.library.multivector": ("MultiVectorEmbedder",),
        "situate.embedders.library.sparse": ("SparseEmbedder",),
        "situate.embedders.local.encoder": ("Encoder",),
        "situate.embedders.models.extension": ("Extension",),
        "situate.embedders.models.families": ("Family",),
        "situate.embedders.models.prompts": ("PromptFamily",),
        "situate.embedders.models.registry": ("family_of",),
        "situate.embedders.models.resolve": (
            "LoadOptions",
            "ResolvedModel",
            "resolve_model",
        ),
        "situate.embedders.models.settings": ("EmbedderSettings",),
        "situate.embedders.pairs.answers": ("AnswerModel",),
        "situate.embedders.pairs.cross_encoder": (
            "CrossEncoderModel",
            "PairScorer",
            "PairScores",
        ),
        "situate.embedders.pairs.decoder": ("Decoder",),
        "situate.embedders.pairs.likelihood": ("LikelihoodTemplate", "QueryLikelihoodModel"),
        "situate.embedders.pairs.t5": (
            "DuelScorer",
            "DuoT5Model",
            "MonoT5Model",
            "QualityT5Model",
        ),
        "situate.embedders.promptreps": ("PromptRepsEmbedder",),
        "situate.embedders.quantization": (
            "Int8Quantizer",
            "binarize",
            "hamming_similarity",
        ),
        "situate.embedders.remote.generator": ("OpenAIGenerator",),
        "situate.embedders.remote.http": ("HttpSettings",),
        "situate.embedders.remote.openai": ("OpenAIEncoder",),
        "situate.embedders.remote.tei": ("TEIEncoder",),
        "situate.embedders.remote.vllm": ("VLLMEncoder",),
        "situate.embedders.types": (
            "ChunkScheme",
            "ChunkVectors",
            "Encoded",
            "SpanEncoder",
            "SpanText",
            "SparseVector",
        ),
    },
)
