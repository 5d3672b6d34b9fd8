"""`SituateHighlighter`: marks the spans of nodes that match the query, and attributes an answer to nodes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from situate.errors import InputError
from situate.integrations._shared.component import Handle, PicklesAsConfig
from situate.integrations._shared.settings import HighlightOptions
from situate.integrations.llama_index.embedding import SituateEmbedding, default_embedding
from situate.integrations.llama_index.nodes import RetrievedNode, to_hit, write_place
from situate.retrievers.pipeline.steps import Trace
from situate.retrievers.types import Hit

if TYPE_CHECKING:
    from situate.retrievers.highlight import Attribution, Highlighter


class SituateHighlighter(HighlightOptions, PicklesAsConfig, BaseNodePostprocessor):
    """Marks the spans of each node that match the query best, by late token vectors: no further model.

    Keeps the nodes' order and scores, and returns copies whose metadata say, hidden from models, where each stands and
    what matches (`passage_where`, `passage_highlight`). The other settings are those of `HighlightOptions`.

    Attributes:
        embed_model: Gives the token vectors; best the one that the index uses, which is loaded already. Without it,
            ``Settings.embed_model`` where that is a `SituateEmbedding`.
    """

    embed_model: SituateEmbedding = Field(default_factory=default_embedding, description="Gives the token vectors.")

    _handle: Handle[Any] = PrivateAttr(default_factory=Handle)
    _steps: Handle[Any] = PrivateAttr(default_factory=Handle)

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "SituateHighlighter"

    @property
    def highlighter(self) -> Highlighter:
        """The highlighter underneath."""
        embedder = self.embed_model.embedder
        settings = (id(embedder), self.at_most, self.gain, self.support)
        highlighter: Highlighter = self._handle.get(settings, partial(self._made_highlighter, embedder))
        return highlighter

    def attribute(self, answer: str, nodes: Sequence[NodeWithScore]) -> Attribution:
        """For each sentence of an answer the spans of nodes that support it; see `Highlighter.attribute`."""
        return self.highlighter.attribute(answer, _hits(nodes))

    async def aattribute(self, answer: str, nodes: Sequence[NodeWithScore]) -> Attribution:
        """`attribute` without blocking the event loop."""
        return await self.highlighter.aattribute(answer, _hits(nodes))

    def _trace(self) -> Trace:
        trace: Trace = self._steps.get(self._policy(), self._runner).trace()
        return trace

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, hits, trace = _query(query_bundle), _hits(nodes), self._trace()
        work = partial(self.highlighter.highlight, query, hits)
        return _marked(nodes, trace.run("highlight", work, hits) if hits else [], trace)

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, hits, trace = _query(query_bundle), _hits(nodes), self._trace()
        work = partial(self.highlighter.ahighlight, query, hits)
        return _marked(nodes, await trace.arun("highlight", work, hits) if hits else [], trace)


def _query(bundle: QueryBundle | None) -> str:
    if bundle is None:
        raise InputError("a highlighter needs the query: pass query_bundle= or query_str=")
    return bundle.query_str


def _hits(nodes: Sequence[NodeWithScore]) -> list[Hit]:
    return [to_hit(found, place) for place, found in enumerate(nodes)]


def _marked(nodes: Sequence[NodeWithScore], hits: Sequence[Hit], trace: Trace) -> list[NodeWithScore]:
    degraded = {step.name: step.error for step in trace.steps if step.error is not None}
    marked: list[NodeWithScore] = []
    for found, hit in zip(nodes, hits, strict=True):
        node = found.node.model_copy()
        write_place(node, hit)
        known = found if isinstance(found, RetrievedNode) else RetrievedNode(node=found.node)
        reasons = {**known.degraded, **degraded}
        marked.append(RetrievedNode(node=node, score=found.score, relevance=known.relevance, degraded=reasons))
    return marked
