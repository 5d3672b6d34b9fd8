"""HyDE over any LangChain store that searches by vector."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    BaseCallbackManager,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseLanguageModel
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field, PrivateAttr, SkipValidation, field_validator, model_validator

from situate.errors import InputError
from situate.integrations._shared.component import Handle, PicklesAsConfig
from situate.integrations._shared.settings import HydeOptions
from situate.integrations.langchain.generator import LangChainGenerator
from situate.integrations.langchain.retriever import areport_steps, report_steps
from situate.retrievers.expand.hyde import WEB_SEARCH, Hyde, HydeSettings as Settings
from situate.retrievers.pipeline.steps import Trace
from situate.retrievers.types import QueryText
from situate.vectors import mean_direction


class HydeSettings(HydeOptions, PicklesAsConfig):
    """How hypothetical documents are written; the other settings are those of `HydeOptions`.

    Attributes:
        llm: A chat model or an LLM. It should sample, or all drafts are alike.
        template: The prompt, with ``{query}`` and perhaps ``{language}`` in it; `situate.retrievers.expand.hyde` holds
            those of the paper.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    shared_on_copy: ClassVar[tuple[str, ...]] = ("llm", "vectorstore", "embeddings")

    llm: SkipValidation[BaseLanguageModel[Any]]
    template: str = WEB_SEARCH

    _steps: Handle[Any] = PrivateAttr(default_factory=Handle)

    @field_validator("llm", mode="before")
    @classmethod
    def _is_a_model(cls, llm: Any) -> Any:
        # pydantic treats a parametrised generic as a class of its own, which no model is an instance of.
        if not isinstance(llm, BaseLanguageModel):
            raise ValueError(f"llm is a {type(llm).__name__}, not a chat model or an LLM of LangChain")
        return llm

    @model_validator(mode="after")
    def _template_holds_the_query(self) -> Self:
        Settings(template=self.template, language=self.language)
        return self

    def _trace(self) -> Trace:
        trace: Trace = self._steps.get(self._policy(), self._runner).trace()
        return trace

    def _hyde(self, callbacks: BaseCallbackManager | None) -> Hyde:
        config: Any = {"callbacks": callbacks} if callbacks is not None else None
        return Hyde(
            LangChainGenerator(self.llm, max_concurrency=self.concurrency, config=config),
            template=self.template,
            drafts=self.drafts,
            query_weight=self.query_weight,
            language=self.language,
        )

    def _vector(
        self, query: str, embeddings: Embeddings, trace: Trace, callbacks: BaseCallbackManager | None = None
    ) -> list[float]:
        texts = trace.run("hyde", lambda: self._hyde(callbacks).expand(query), [QueryText(query)])
        drafts = [text.text for text in texts if text.role == "document"]
        rows = [embeddings.embed_query(query), *(embeddings.embed_documents(drafts) if drafts else [])]
        return _mean(rows, texts)

    async def _avector(
        self, query: str, embeddings: Embeddings, trace: Trace, callbacks: BaseCallbackManager | None = None
    ) -> list[float]:
        texts = await trace.arun("hyde", lambda: self._hyde(callbacks).aexpand(query), [QueryText(query)])
        drafts = [text.text for text in texts if text.role == "document"]
        own, written = embeddings.aembed_query(query), embeddings.aembed_documents(drafts)
        if not drafts:
            written.close()
            return _mean([await own], texts)
        first, rest = await asyncio.gather(own, written)
        return _mean([first, *rest], texts)


class HyDEEmbeddings(HydeSettings, Embeddings):
    """Embeddings whose queries are searched with hypothetical answers (Gao et al. 2022).

    A drop-in under any vector store: `embed_documents` is that of the embeddings underneath, `embed_query` is the mean
    of the query's vector and the drafts', which are embedded as documents.

    Attributes:
        embeddings: Any LangChain embeddings.
    """

    embeddings: Embeddings

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of the embeddings underneath, without a call of the language model."""
        return self.embeddings.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """HyDE's vector of a query, L2-normalised."""
        return self._vector(text, self.embeddings, self._trace())

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` without blocking the event loop."""
        return await self.embeddings.aembed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` without blocking the event loop."""
        return await self._avector(text, self.embeddings, self._trace())


class HyDERetriever(HydeSettings, BaseRetriever):
    """Searches any vector store with hypothetical answers (Gao et al. 2022).

    Attributes:
        vectorstore: Anything that implements ``similarity_search_by_vector``.
        embeddings: Embed query and drafts; None: the store's own.
        k: How many documents, at most.
        search_kwargs: Further arguments of the store's search.
    """

    vectorstore: VectorStore
    embeddings: Embeddings | None = None
    k: int = Field(default=4, ge=1)
    search_kwargs: dict[str, Any] = Field(default_factory=dict)

    @property
    def _embeddings(self) -> Embeddings:
        embeddings = self.embeddings or self.vectorstore.embeddings
        if embeddings is None:
            raise InputError(
                f"{type(self.vectorstore).__name__} does not name the embeddings of its queries: give embeddings=, the "
                f"ones that its documents were embedded with"
            )
        return embeddings

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None, **search: Any
    ) -> list[LangChainDocument]:
        trace = self._trace()
        try:
            vector = self._vector(query, self._embeddings, trace, run_manager.get_child())
        finally:
            report_steps(trace.steps, run_manager)
        return self.vectorstore.similarity_search_by_vector(vector, k or self.k, **{**self.search_kwargs, **search})

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None, **search: Any
    ) -> list[LangChainDocument]:
        trace = self._trace()
        try:
            vector = await self._avector(query, self._embeddings, trace, run_manager.get_child())
        finally:
            await areport_steps(trace.steps, run_manager)
        return await self.vectorstore.asimilarity_search_by_vector(
            vector, k or self.k, **{**self.search_kwargs, **search}
        )

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = type(self.vectorstore).__name__
        params["ls_embedding_provider"] = type(self._embeddings).__name__
        return params


def _mean(rows: Sequence[Sequence[float]], texts: Sequence[QueryText]) -> list[float]:
    vector = mean_direction(np.asarray(rows, dtype=np.float32), [text.weight for text in texts])
    return [float(value) for value in vector]
