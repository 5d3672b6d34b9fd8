"""What each technique changes in a ranking: the same chunks, searched with more and more of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qdrant_client import QdrantClient

from examples.asking import Question
from situate.embedders import Embedder
from situate.retrievers import Hit, Index, PipelineConfig, QueryVectors
from situate.retrievers.index.lexical import LexicalEncoder
from situate.retrievers.rerank import LateInteractionReranker
from situate.retrievers.search.gateway import gateway
from situate.retrievers.search.hybrid import HybridSearch

#: The ranks in which the right passage is searched for.
DEPTH = 50

_QUALITY = PipelineConfig.quality()
#: The preset with the headings written in front of what the model reads, because a handbook's headings are informative;
#: and without stored token vectors, because the reranker below makes its own, with the headings among them.
FULL = replace(_QUALITY, dense=replace(_QUALITY.dense, context=("headings",), pool_context=True), token_vectors=None)


def reranker(embedder: Embedder) -> LateInteractionReranker:
    """MaxSim over the model's own token vectors, headings included: it needs no further weights."""
    return LateInteractionReranker(embedder, context=("headings",))


@dataclass(frozen=True)
class Stage:
    """A step of the comparison: its name in the tables, what was added, how it searches and whether it reranks."""

    name: str
    added: str
    config: PipelineConfig
    reranked: bool = False


STAGES = (
    Stage("plain", "each chunk embedded alone, cosine", PipelineConfig.plain()),
    Stage("+ context", "late chunking, neighbours, headings in front", replace(FULL, lexical=None, feedback=None)),
    Stage("+ hybrid", "BM25 over headings and text, fused; feedback", FULL),
    Stage("+ reranking", "MaxSim over token vectors of headings and text", FULL, reranked=True),
)


@dataclass(frozen=True)
class Asked:
    """A question, and the passages of every stage."""

    question: Question
    hits: tuple[Sequence[Hit], ...]

    @property
    def ranks(self) -> list[int | None]:
        """The right passage's place in each stage, from 1; None where it is not among the first `DEPTH`."""
        return [self._rank(hits) for hits in self.hits]

    @property
    def won(self) -> bool:
        """Whether the right passage is first with everything, and was not first with plain embeddings."""
        return self.ranks[-1] == 1 and self.ranks[0] != 1

    @property
    def lost(self) -> bool:
        """Whether the right passage was first with plain embeddings, and is not first with everything."""
        return self.ranks[0] == 1 and self.ranks[-1] != 1

    def place_of(self, chunk_id: str, stage: int) -> int | None:
        """The place of a chunk in a stage, from 1."""
        return next((place for place, hit in enumerate(self.hits[stage], 1) if hit.chunk.id == chunk_id), None)

    def _rank(self, hits: Sequence[Hit]) -> int | None:
        return next((place for place, hit in enumerate(hits, 1) if self.question.is_answered_by(hit.chunk)), None)


class Comparison:
    """Searches with every stage.

    The full collection serves all stages but the first; a stage with fewer parts uses less of it.

    Args:
        client: The store.
        plain: The index of chunks embedded alone.
        full: The index with everything.
    """

    def __init__(self, client: QdrantClient, plain: Index, full: Index) -> None:
        self.embedder: Embedder = full.embedder
        self._searches = [
            HybridSearch(gateway(client, index.collection), stage.config)
            for index, stage in zip([plain, full, full, full], STAGES, strict=True)
        ]
        self._lexical = LexicalEncoder(FULL.lexical) if FULL.lexical is not None else None
        #: One for all, so that a passage's token vectors are made once.
        self.reranker = reranker(full.embedder)

    def ask(self, question: Question) -> Asked:
        """The question's passages in every stage."""
        vectors = QueryVectors(
            dense=self.embedder.embed_queries([question.text])[0],
            lexical=self._lexical.encode_query(question.text) if self._lexical is not None else None,
        )
        found = [search.search(vectors, DEPTH) for search in self._searches]
        hits = [
            self.reranker.rerank(question.text, some) if stage.reranked else some
            for stage, some in zip(STAGES, found, strict=True)
        ]
        return Asked(question, tuple(hits))
