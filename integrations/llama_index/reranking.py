"""What the rerankers share: nodes in, events, new nodes out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher

from situate.errors import InputError
from situate.integrations.llama_index.convert import to_hit
from situate.integrations.llama_index.pickling import PicklesAsConfig
from situate.retrievers.types import Hit, Reranker

dispatcher = get_dispatcher(__name__)


class BaseRerank(PicklesAsConfig, BaseNodePostprocessor):
    """A situate `Reranker` as a node postprocessor.

    What comes back are new objects with scores as floats; the nodes handed in, their scores and their metadata are
    not changed. Each run is told as LlamaIndex tells it: a ``RERANKING`` callback event, ``ReRankStartEvent`` and
    ``ReRankEndEvent``.

    Attributes:
        top_n: How many nodes to keep, at most; None: all.
        metadata_mode: What of a node the reranker reads: "embed" shows it the metadata that embedding models see
            (titles, context), "none" the bare text.
        keep_retrieval_score: Note the score that a node came with in its metadata, as ``retrieval_score``.
    """

    top_n: int | None = Field(default=None, gt=0, description="How many nodes to keep.")
    metadata_mode: MetadataMode = Field(default=MetadataMode.EMBED, description="What of a node is read.")
    keep_retrieval_score: bool = Field(default=False, description="Note the earlier score in the metadata.")

    @property
    @abstractmethod
    def reranker(self) -> Reranker:
        """The reranker underneath."""

    @property
    @abstractmethod
    def _told_as(self) -> str:
        """The model's name in events."""

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        with self._told(nodes, query_bundle) as told:
            told.result = self._nodes(nodes, self.reranker.rerank(told.query, self._hits(nodes)))
        return told.result

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        with self._told(nodes, query_bundle) as told:
            told.result = self._nodes(nodes, await self.reranker.arerank(told.query, self._hits(nodes)))
        return told.result

    def _hits(self, nodes: Sequence[NodeWithScore]) -> list[Hit]:
        # The place among the nodes travels as the chunk's index: ids need not be unique here.
        return [to_hit(found, place, mode=self.metadata_mode) for place, found in enumerate(nodes)]

    def _nodes(self, nodes: Sequence[NodeWithScore], hits: Sequence[Hit]) -> list[NodeWithScore]:
        ranked: list[NodeWithScore] = []
        for hit in hits[: self.top_n]:
            found = nodes[hit.chunk.index]
            node = found.node
            if self.keep_retrieval_score:
                node = node.model_copy(update={"metadata": {**node.metadata, "retrieval_score": found.score}})
            ranked.append(NodeWithScore(node=node, score=float(hit.score)))
        return ranked

    @contextmanager
    def _told(self, nodes: list[NodeWithScore], bundle: QueryBundle | None) -> Iterator[_Told]:
        if bundle is None:
            raise InputError("a reranker needs the query: pass query_bundle= or query_str=")
        told = _Told(bundle.query_str)
        top_n = self.top_n if self.top_n is not None else len(nodes)
        dispatcher.event(ReRankStartEvent(query=bundle, nodes=nodes, top_n=top_n, model_name=self._told_as))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self._told_as,
            EventPayload.QUERY_STR: bundle.query_str,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield told
            event.on_end(payload={EventPayload.NODES: told.result})
        dispatcher.event(ReRankEndEvent(nodes=told.result))


class _Told:
    def __init__(self, query: str) -> None:
        self.query = query
        self.result: list[NodeWithScore] = []
