"""The parts that a configuration chooses by a word: chunkers, situators, expanders, rerankers, served models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, GetJsonSchemaHandler, Tag

from situate.chunkers.auto import AutoChunker
from situate.chunkers.code import CodeChunker
from situate.chunkers.dialogue import DialogueChunker
from situate.chunkers.html import HtmlChunker
from situate.chunkers.markdown import MarkdownChunker
from situate.chunkers.pruning import PruningChunker
from situate.chunkers.semantic import ClusterSemanticChunker, SemanticChunker
from situate.chunkers.sentence_window import SentenceWindowChunker
from situate.chunkers.situators.headings import HeadingSituator
from situate.chunkers.situators.keyphrases import KeyphraseSituator
from situate.chunkers.situators.propositions import PropositionSituator
from situate.chunkers.situators.questions import QuestionSituator
from situate.chunkers.situators.rows import RowSituator
from situate.chunkers.situators.sentence import LLMSituator
from situate.chunkers.text import FixedTokenChunker, TextChunker
from situate.chunkers.topics import TopicChunker
from situate.configuration.options import Options, options
from situate.embedders.models.extension import Method
from situate.embedders.models.settings import EmbedderSettings
from situate.embedders.pairs.cross_encoder import CrossEncoderModel
from situate.embedders.pairs.likelihood import QueryLikelihoodModel
from situate.embedders.pairs.t5 import DuoT5Model, MonoT5Model
from situate.retrievers.config import PipelineConfig
from situate.retrievers.expand.hyde import Hyde
from situate.retrievers.expand.multihop import MultiHop
from situate.retrievers.expand.rewriting import MultiQuery, StepBack
from situate.retrievers.rerank.aggregate import ByDocument
from situate.retrievers.rerank.by_page import ByPage
from situate.retrievers.rerank.cross_encoder import CrossEncoderReranker
from situate.retrievers.rerank.diffusion import DiffusionReranker
from situate.retrievers.rerank.duo import DuoReranker
from situate.retrievers.rerank.late_interaction import LateInteractionReranker
from situate.retrievers.rerank.links import LinkReranker
from situate.retrievers.rerank.llm import ListwiseReranker, PairwiseReranker, PointwiseReranker
from situate.retrievers.rerank.mmr import Mmr
from situate.retrievers.search.boosts import PayloadScore, Recency

#: A class, or a class and the one that makes one of its parameters.
Kinds = Mapping[str, Callable[..., Any] | tuple[Callable[..., Any], str, Callable[..., Any]]]

CHUNKERS: Kinds = {
    "auto": AutoChunker,
    "markdown": MarkdownChunker,
    "text": TextChunker,
    "html": HtmlChunker,
    "code": CodeChunker,
    "dialogue": DialogueChunker,
    "sentence_window": SentenceWindowChunker,
    "semantic": SemanticChunker,
    "cluster_semantic": ClusterSemanticChunker,
    "topic": TopicChunker,
    "fixed": FixedTokenChunker,
    "pruning": PruningChunker,
}
SITUATORS: Kinds = {
    "headings": HeadingSituator,
    "rows": RowSituator,
    "sentence": LLMSituator,
    "questions": QuestionSituator,
    "propositions": PropositionSituator,
    "keyphrases": KeyphraseSituator,
}
EXPANDERS: Kinds = {"hyde": Hyde, "multi_query": MultiQuery, "step_back": StepBack, "multi_hop": MultiHop}
RERANKERS: Kinds = {
    "cross_encoder": (CrossEncoderReranker, "model", CrossEncoderModel),
    "query_likelihood": (CrossEncoderReranker, "model", QueryLikelihoodModel),
    "monot5": (CrossEncoderReranker, "model", MonoT5Model),
    "duot5": (DuoReranker, "model", DuoT5Model),
    "late_interaction": LateInteractionReranker,
    "mmr": Mmr,
    "diffusion": DiffusionReranker,
    "links": LinkReranker,
    "pointwise": PointwiseReranker,
    "pairwise": PairwiseReranker,
    "listwise": ListwiseReranker,
    "document": ByDocument,
    "page": ByPage,
}
BOOSTS: Kinds = {"recency": Recency, "payload_score": PayloadScore}


def _one_of(kinds: Kinds, also: Mapping[str, tuple[tuple[str, Any], ...]] = MappingProxyType({})) -> Any:
    """The type of a value that names one of these kinds: a word, or a mapping with the word as ``kind``.

    Args:
        kinds: The kinds.
        also: By kind, types of parameters that have another one here.
    """
    tagged: Any = None
    for kind, made in kinds.items():
        target, *inside = made if isinstance(made, tuple) else (made,)
        model = options(target, kind, inside=(inside[0], inside[1]) if inside else None, also=also.get(kind, ()))
        one: Any = Annotated[model, Tag(kind)]
        tagged = one if tagged is None else tagged | one
    return Annotated[tagged, Discriminator(_kind_of), BeforeValidator(_in_full), _OrAWord(kinds)]


class _OrAWord:
    """Adds the bare word to the JSON schema."""

    def __init__(self, kinds: Kinds) -> None:
        self.kinds = kinds

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(self.kinds)}, handler(core)]}


def _kind_of(value: Any) -> Any:
    return value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)


def _in_full(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


_CUTTING = _one_of({kind: made for kind, made in CHUNKERS.items() if kind != "pruning"})
ChunkerOptions = _one_of(CHUNKERS, {"pruning": (("chunker", _CUTTING | None),)})
SituatorOptions = _one_of(SITUATORS)
ExpanderOptions = _one_of(EXPANDERS)
RerankerOptions = _one_of(RERANKERS)
BoostOptions: Any = _one_of(BOOSTS)

#: The parameters of an `Embedder`.
EmbedderOptions = options(
    EmbedderSettings,
    without=frozenset({"model", "encoder"}),
    also=(
        ("adapters", dict[str, str] | None),
        ("prompts", str | dict[str, Any] | None),
        ("extension", Method | None),
        ("query_model", str | None),
    ),
)
#: What is changed of a preset. Signals are written as their own JSON.
ConfigOptions: type[Options] = options(
    PipelineConfig,
    also=(
        ("boosts", tuple[BoostOptions, ...]),
        ("signals", Annotated[tuple[dict[str, Any] | str, ...], Field(description="Further signals, by kind.")]),
    ),
)
