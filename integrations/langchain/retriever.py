"""`SituateRetriever`: the whole way of a query as a LangChain retriever."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.documents import Document as LangChainDocument
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.runnables import RunnableConfig
from pydantic import ConfigDict, Field, SkipValidation

from situate.integrations._shared.origin import step_records
from situate.integrations.langchain.documents import from_result
from situate.integrations.langchain.embeddings import SituateEmbeddings
from situate.retrievers.config import PipelineConfig
from situate.retrievers.index.index import Index
from situate.retrievers.pipeline.concurrency import StartLimit
from situate.retrievers.pipeline.steps import OnError, StepPolicy
from situate.retrievers.types import QueryExpander, Reranker, SearchResult, Step
from situate.types import Chunker, Situator

if TYPE_CHECKING:
    from langchain_text_splitters import TextSplitter
    from qdrant_client import QdrantClient

    from situate.retrievers.retriever import Retriever


#: LangChain computes 0.1 ms before it calls a retriever.
_START_LIMIT = StartLimit(8)


#: The name of the custom event.
STEPS_EVENT = "situate_steps"


def report_steps(steps: Sequence[Step], run_manager: CallbackManagerForRetrieverRun) -> None:
    """Send the steps as a custom event of the retriever's run."""
    if steps and run_manager.handlers:
        dispatch_custom_event(STEPS_EVENT, step_records(steps), config={"callbacks": run_manager.get_child()})


async def areport_steps(steps: Sequence[Step], run_manager: AsyncCallbackManagerForRetrieverRun) -> None:
    """`report_steps` for asynchronous handlers."""
    if steps and run_manager.handlers:
        await adispatch_custom_event(STEPS_EVENT, step_records(steps), config={"callbacks": run_manager.get_child()})


class IndexRetriever(BaseRetriever):
    """What `SituateRetriever` and `SituateDocumentIndex` share: expand, embed, search, rerank, cut off.

    Attributes:
        expander: Writes further texts to search with (HyDE, multi-query).
        rerankers: Order the hits anew, one after the other.
        threshold: Leave out what scores lower after the last step.
        k: How many passages, at most.
        candidates: How many are searched for where there is something to rerank.
        fuse_texts: How the searches for an expander's texts are fused; None: they make one search.
        filter: ``{"key": value}`` over the metadata, or a `qdrant_client.models.Filter`.
        on_error: What the failure of an optional step does: "degrade" goes on without it, "raise" raises.
        policy: Timeouts and retries of the optional steps, in place of ``on_error``.
        policies: The same for single steps, by name ("hyde") or kind ("rerank").
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    expander: SkipValidation[QueryExpander | None] = None
    rerankers: SkipValidation[Sequence[Reranker]] = ()
    threshold: float | None = None
    k: int = Field(default=10, ge=1)
    candidates: int = Field(default=50, ge=1)
    fuse_texts: Literal["rrf", "minmax", "dbsf"] | None = None
    filter: SkipValidation[Any] = None
    on_error: OnError = "degrade"
    policy: StepPolicy | None = None
    policies: Mapping[str, StepPolicy] | None = None

    @abstractmethod
    def _searched(self) -> Index:
        """The index that is searched."""

    @cached_property
    def _pipeline(self) -> Retriever:
        from situate.retrievers.retriever import Retriever

        return Retriever(
            self._searched(),
            expander=self.expander,
            rerankers=self.rerankers,
            threshold=self.threshold,
            k=self.k,
            candidates=self.candidates,
            fuse_texts=self.fuse_texts,
            on_error=self.on_error,
            policy=self.policy,
            policies=self.policies,
        )

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Any = None,
    ) -> list[LangChainDocument]:
        result = self._pipeline.retrieve(query, k, self.filter if filter is None else filter)
        report_steps(result.steps, run_manager)
        return _documents(result)

    async def ainvoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[LangChainDocument]:
        """As in LangChain; calls that come together begin a few at a time, so that none holds up the event loop."""
        await _START_LIMIT.begin()
        return await super().ainvoke(input, config, **kwargs)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Any = None,
    ) -> list[LangChainDocument]:
        result = await self._pipeline.aretrieve(query, k, self.filter if filter is None else filter)
        await areport_steps(result.steps, run_manager)
        return _documents(result)

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = "qdrant"
        params["ls_embedding_provider"] = "situate"
        params["ls_embedding_model"] = str(self._searched().embedder.model)
        return params


class SituateRetriever(IndexRetriever):
    """Passages from an `Index`, by the whole way of a query.

    Each passage's metadata is its document's, with ``relevance_score`` and, under ``situate``, its place and context
    (`chunk_context`, `situated_text`). What each step did goes to callbacks as the custom event ``situate_steps``.

    Attributes:
        index: What is searched; `SituateVectorStore` has one as ``index``.
    """

    index: Index

    def _searched(self) -> Index:
        return self.index

    @classmethod
    def from_pipeline(cls, pipeline: Retriever, *, filter: Any = None) -> Self:
        """A retriever that does what a `situate.retrievers.Retriever` does."""
        return cls(
            index=pipeline.index,
            expander=pipeline.expander,
            rerankers=pipeline.rerankers,
            filter=filter,
            **vars(pipeline.settings),
        )

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[LangChainDocument],
        embeddings: SituateEmbeddings,
        *,
        splitter: TextSplitter | Chunker | None = None,
        situators: Sequence[Situator] = (),
        client: QdrantClient | None = None,
        path: str | Path = ":memory:",
        collection: str = "langchain",
        config: PipelineConfig | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Self:
        """A retriever over whole documents, indexed first.

        Args:
            documents: Whole documents.
            embeddings: Makes the vectors.
            splitter: Cuts them; None: Markdown by structure, other text recursively, 200 tokens of the model.
            situators: Write context into chunks.
            client: Any Qdrant client; None opens an embedded store at ``path``.
            path: Folder of the embedded store, or ":memory:".
            collection: The collection's name.
            config: What is stored and how it is searched; `PipelineConfig.fast` by default.
            settings: Fields of the retriever (``k``, ``expander``, ...).
        """
        from situate.integrations.langchain.splitter import SituateTextSplitter
        from situate.integrations.langchain.vectorstore import SituateVectorStore

        store = SituateVectorStore(
            embeddings,
            client=client,
            path=path,
            collection=collection,
            splitter=splitter if splitter is not None else SituateTextSplitter(embeddings),
            situators=situators,
            config=config,
        )
        store.add_documents(list(documents))
        return cls(index=store.index, **(settings or {}))


def _documents(result: SearchResult) -> list[LangChainDocument]:
    return [from_result(hit.chunk, float(hit.score)) for hit in result.hits]
