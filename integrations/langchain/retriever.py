"""`SituateRetriever`: the query pipeline as a LangChain retriever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.documents import Document as LangChainDocument
from langchain_core.prompts import PromptTemplate
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, create_retriever_tool
from pydantic import ConfigDict, PrivateAttr, SkipValidation

from situate.integrations._shared.component import Handle, PicklesAsConfig
from situate.integrations._shared.lifecycle import OpensIndex
from situate.integrations._shared.settings import RetrieverOptions, SignalLike
from situate.integrations.langchain.documents import Content, from_result
from situate.integrations.langchain.embeddings import SituateEmbeddings
from situate.retrievers.config import PipelineConfig
from situate.retrievers.index.index import Index
from situate.retrievers.pipeline.concurrency import StartLimit
from situate.retrievers.types import SearchResult, Step
from situate.types import Chunker, Situator

if TYPE_CHECKING:
    from langchain_text_splitters import TextSplitter
    from qdrant_client import QdrantClient

    from situate.retrievers.retriever import Retriever


#: Calls that begin in one iteration of the event loop: LangChain computes 0.1 ms before it calls a retriever.
_START_LIMIT = StartLimit(8)


#: The name of the custom event.
STEPS_EVENT = "situate_steps"


def report_steps(steps: Sequence[Step], run_manager: CallbackManagerForRetrieverRun) -> None:
    """Send the steps as a custom event of the retriever's run."""
    if steps and run_manager.handlers:
        dispatch_custom_event(STEPS_EVENT, _records(steps), config={"callbacks": run_manager.get_child()})


async def areport_steps(steps: Sequence[Step], run_manager: AsyncCallbackManagerForRetrieverRun) -> None:
    """`report_steps` for asynchronous handlers."""
    if steps and run_manager.handlers:
        await adispatch_custom_event(STEPS_EVENT, _records(steps), config={"callbacks": run_manager.get_child()})


def _records(steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [step.to_dict() for step in steps]


class IndexRetriever(OpensIndex, RetrieverOptions, PicklesAsConfig, BaseRetriever):
    """The shared part of `SituateRetriever` and `SituateDocumentIndex`: expand, embed, search, rerank, cut off.

    The settings of the search are those of `RetrieverOptions`. ``invoke`` takes ``k``, ``filter`` and ``instruction``
    for one query.

    Attributes:
        filter: ``{"key": value}`` over the metadata, or a `qdrant_client.models.Filter`.
        content: "text": ``page_content`` is the passage's text in its document. "situated": its context (title,
            headings, ...) is written in front, for prompts that show nothing else.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    shared_on_copy: ClassVar[tuple[str, ...]] = ("expander", "rerankers", "filter", "index", "client", "situators")

    filter: SkipValidation[Any] = None
    content: Content = "text"

    _handle: Handle[Any] = PrivateAttr(default_factory=Handle)

    @property
    def _pipeline(self) -> Retriever:
        index = self._searched()
        settings = self._retriever_settings()
        key = (id(index), tuple(map(_identity, settings.values())))
        pipeline: Retriever = self._handle.get(key, lambda: _retriever(index, settings))
        return pipeline

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Any = None,
        instruction: str | None = None,
    ) -> list[LangChainDocument]:
        result = self._pipeline.retrieve(query, k, self.filter if filter is None else filter, instruction=instruction)
        report_steps(result.steps, run_manager)
        return self._documents(result)

    async def ainvoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[LangChainDocument]:
        """As in LangChain; simultaneous calls begin a few at a time, so that they do not block the event loop."""
        await _START_LIMIT.begin()
        return await super().ainvoke(input, config, **kwargs)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Any = None,
        instruction: str | None = None,
    ) -> list[LangChainDocument]:
        result = await self._pipeline.aretrieve(
            query, k, self.filter if filter is None else filter, instruction=instruction
        )
        await areport_steps(result.steps, run_manager)
        return self._documents(result)

    def _documents(self, result: SearchResult) -> list[LangChainDocument]:
        degraded = {step.name: step.error for step in result.steps if step.error is not None}
        return [from_result(hit, self.content, degraded) for hit in result.hits]

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = "qdrant"
        params["ls_embedding_provider"] = "situate"
        params["ls_embedding_model"] = str(self._searched().embedder.model)
        return params


class SituateRetriever(IndexRetriever):
    """Passages from an `Index`, by the query pipeline.

    Each passage's metadata is its document's, with ``relevance_score`` and, under ``situate``, its place and context
    (`chunk_context`, `situated_text`). Callbacks get the record of each step as the custom event ``situate_steps``.

    Attributes:
        index: The index to search; `SituateVectorStore` has one as ``index``.
    """

    index: Index

    def _searched(self) -> Index:
        return self.index

    @classmethod
    def from_pipeline(cls, pipeline: Retriever, *, filter: Any = None) -> Self:
        """A retriever with the settings of a `situate.retrievers.Retriever`."""
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
        config: PipelineConfig | None = None,
        signals: Sequence[SignalLike] = (),
        settings: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """A retriever over whole documents, indexed first.

        Args:
            documents: Whole documents.
            embeddings: Makes the vectors.
            splitter: Cuts them; None: Markdown by structure, other text recursively, 200 tokens of the model.
            situators: Write context into chunks.
            client: Any Qdrant client; None opens ``path``.
            config: What is stored and how it is searched; `PipelineConfig.fast` by default.
            signals: Further signals of ``config``, by kind, as JSON or as values (`situate.retrievers.signals`).
            settings: Fields of the retriever (``k``, ``expander``, ...), in place of ``options``.
            options: Fields of the retriever, those of `StoreOptions` (``path``, ``collection_name``, ...), and further
                arguments of `SituateVectorStore` (``compression``, ``hubness``, ...).
        """
        from situate.integrations.langchain.splitter import SituateTextSplitter
        from situate.integrations.langchain.vectorstore import SituateVectorStore

        own = {name for name in options if name in cls.model_fields or name in cls.also_known_as}
        store = SituateVectorStore(
            embeddings,
            client=client,
            splitter=splitter if splitter is not None else SituateTextSplitter(embeddings),
            situators=situators,
            config=config,
            signals=signals,
            **{name: value for name, value in options.items() if name not in own},
        )
        fields = {**(settings or {}), **{name: options[name] for name in own}}
        made = cls(index=store.index, **fields)  # refuses wrong settings before anything is indexed
        store.add_documents(list(documents))
        return made


def _retriever(index: Index, settings: Mapping[str, Any]) -> Retriever:
    from situate.retrievers.retriever import Retriever

    return Retriever(index, **settings)


def _identity(value: Any) -> Any:
    """The key by which two values of a setting are compared."""
    return value if value is None or isinstance(value, str | int | float) else id(value)


#: How a passage is written into a prompt: its context, then its words.
SITUATED_PROMPT = PromptTemplate.from_template("{document_context}\n{page_content}")


def create_situated_tool(retriever: IndexRetriever, name: str, description: str, **options: Any) -> BaseTool:
    """A search tool for an agent: LangChain's ``create_retriever_tool``, with each passage's context.

    Args:
        retriever: The retriever.
        name: The tool's name.
        description: Its description for the agent.
        options: Further arguments of ``create_retriever_tool``.
    """
    return create_retriever_tool(retriever, name, description, **{"document_prompt": SITUATED_PROMPT, **options})
