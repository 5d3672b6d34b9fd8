"""HyDE for LlamaIndex: a retriever around a retriever, and a query transform."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.indices.query.query_transform.base import BaseQueryTransform
from llama_index.core.llms import LLM
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.settings import Settings
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent

from situate.errors import InputError
from situate.integrations._shared.component import translated
from situate.integrations._shared.settings import HydeOptions, StepOptions
from situate.integrations.llama_index.generator import as_generator
from situate.retrievers.expand.hyde import WEB_SEARCH, Hyde
from situate.retrievers.pipeline.steps import StepPolicy, StepRunner
from situate.retrievers.types import QueryText
from situate.types import TextGenerator
from situate.vectors import mean_direction

dispatcher = get_dispatcher(__name__)

#: The paper's prompt for web search, with LlamaIndex's name for the query.
DEFAULT_HYDE_PROMPT = PromptTemplate(WEB_SEARCH.replace("{query}", "{query_str}"))
_STEP = "hyde"


class HyDEDraftsEvent(BaseEvent):
    """The drafts that a query was expanded with.

    Attributes:
        query: The query.
        drafts: The hypothetical documents; empty where the language model failed.
    """

    query: str
    drafts: list[str]

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "HyDEDraftsEvent"


class _Expansion:
    """The shared part of both classes."""

    def __init__(
        self,
        llm: LLM | TextGenerator | None,
        embed_model: BaseEmbedding | None,
        prompt: BasePromptTemplate | None,
        options: Mapping[str, Any],
    ) -> None:
        given = translated(HydeOptions, HydeOptions.model_fields, options)
        self.generator = as_generator(llm, concurrency=given.pop("concurrency", 8))
        self.embed_model = embed_model
        self.prompt = DEFAULT_HYDE_PROMPT if prompt is None else prompt
        self.runner = StepRunner(
            StepPolicy(**{name: given.pop(name) for name in StepOptions.model_fields if name in given})
        )
        self.query_weight: float = given.get("query_weight", 1.0)
        self.settings = given
        self.hyde()  # refuses wrong numbers, and a prompt without the query

    def hyde(self) -> Hyde:
        names = [name for name in ("query_str", "context_str") if name in self.prompt.template_vars]
        if not names:
            raise InputError(
                f"the HyDE prompt has the variables {self.prompt.template_vars}: it needs {{query_str}}, the query"
            )
        values: dict[str, Any] = dict.fromkeys(names, "{query}")
        if "language" in self.prompt.template_vars:
            values["language"] = "{language}"
        return Hyde(self.generator, template=self.prompt.format(**values), **self.settings)

    def run(self, bundle: QueryBundle) -> QueryBundle:
        if _settled(bundle):
            return replace(bundle)
        hyde, nothing = self.hyde(), list[QueryText]()
        texts = self.runner.trace().run(_STEP, lambda: hyde.expand(bundle.query_str), nothing)
        drafts = self._drafts(bundle, texts)
        if not drafts:
            return replace(bundle)
        model = self._model()
        queries = [model.get_query_embedding(text) for text in self._queries(bundle)]
        return self._expanded(bundle, queries, model.get_text_embedding_batch(drafts))

    async def arun(self, bundle: QueryBundle) -> QueryBundle:
        if _settled(bundle):
            return replace(bundle)
        hyde, nothing = self.hyde(), list[QueryText]()
        texts = await self.runner.trace().arun(_STEP, lambda: hyde.aexpand(bundle.query_str), nothing)
        drafts = self._drafts(bundle, texts)
        if not drafts:
            return replace(bundle)
        model = self._model()
        queries, documents = await asyncio.gather(
            asyncio.gather(*(model.aget_query_embedding(text) for text in self._queries(bundle))),
            model.aget_text_embedding_batch(drafts),
        )
        return self._expanded(bundle, queries, documents)

    def _queries(self, bundle: QueryBundle) -> list[str]:
        return bundle.embedding_strs if self.query_weight else []

    def _model(self) -> BaseEmbedding:
        return self.embed_model if self.embed_model is not None else Settings.embed_model

    def _drafts(self, bundle: QueryBundle, texts: Sequence[QueryText]) -> list[str]:
        drafts = [text.text for text in texts if text.role == "document"]
        dispatcher.event(HyDEDraftsEvent(query=bundle.query_str, drafts=drafts))
        return drafts

    def _expanded(
        self, bundle: QueryBundle, queries: Sequence[list[float]], drafts: Sequence[list[float]]
    ) -> QueryBundle:
        vectors = np.asarray([*queries, *drafts], dtype=np.float32)
        weights = [*[self.query_weight / max(1, len(queries))] * len(queries), *[1.0] * len(drafts)]
        embedding: list[float] = mean_direction(vectors, weights).tolist()
        return replace(bundle, embedding=embedding)

    def prompts(self) -> PromptDictType:
        return {"hyde_prompt": self.prompt}

    def update_prompts(self, prompts: PromptDictType) -> None:
        if "hyde_prompt" in prompts:
            before, self.prompt = self.prompt, prompts["hyde_prompt"]
            try:
                self.hyde()
            except InputError:
                self.prompt = before
                raise


def _settled(bundle: QueryBundle) -> bool:
    """Whether there is nothing to expand: the vector is given, or there is no query."""
    return bundle.embedding is not None or not bundle.query_str.strip()


class HyDERetriever(BaseRetriever):
    """HyDE around any retriever, asynchronous all the way (Gao et al. 2022, arXiv:2212.10496).

    The language model drafts passages that would answer the query; they are embedded as documents, all in one batch,
    and averaged with the query's vector; the retriever searches with the mean. The bundle's ``query_str`` stays the
    query, for hybrid search and rerankers, and the caller's bundle is not changed. A bundle with an embedding is passed
    on as it is. A `HyDEDraftsEvent` holds the drafts.

    Args:
        retriever: Any retriever that searches by ``QueryBundle.embedding``.
        llm: Any LlamaIndex model or situate `TextGenerator`; None: ``Settings.llm``. It should sample, or all drafts
            are alike.
        embed_model: Embeds drafts and query; None: ``Settings.embed_model``. It has to be the one that the
            retriever's index was built with.
        hyde_prompt: The prompt, with ``{query_str}`` in it and perhaps ``{language}``.
        callback_manager: LlamaIndex's.
        options: Fields of `HydeOptions`: ``drafts``, ``query_weight``, ``language``, ``concurrency``, ``timeout``,
            ``retries``, ``on_error``.
    """

    def __init__(
        self,
        retriever: BaseRetriever,
        *,
        llm: LLM | TextGenerator | None = None,
        embed_model: BaseEmbedding | None = None,
        hyde_prompt: BasePromptTemplate | None = None,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        self.retriever = retriever
        self._expansion = _Expansion(llm, embed_model, hyde_prompt, options)

    def _get_prompts(self) -> PromptDictType:
        return self._expansion.prompts()

    def _update_prompts(self, prompts: PromptDictType) -> None:
        self._expansion.update_prompts(prompts)

    def _get_prompt_modules(self) -> PromptMixinType:
        return {"retriever": self.retriever}

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self.retriever.retrieve(self._expansion.run(query_bundle))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await self.retriever.aretrieve(await self._expansion.arun(query_bundle))


class HyDEQueryTransform(BaseQueryTransform):
    """HyDE as a query transform, for `TransformQueryEngine` and other synchronous users.

    Sets ``QueryBundle.embedding`` to the mean of the drafts (embedded as documents) and the query, and does not change
    the rest of the bundle. LlamaIndex runs query transforms synchronously; `HyDERetriever` does the same thing
    asynchronously.

    Args:
        llm: As in `HyDERetriever`.
        embed_model: As in `HyDERetriever`.
        hyde_prompt: As in `HyDERetriever`.
        options: As in `HyDERetriever`.
    """

    def __init__(
        self,
        llm: LLM | TextGenerator | None = None,
        *,
        embed_model: BaseEmbedding | None = None,
        hyde_prompt: BasePromptTemplate | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._expansion = _Expansion(llm, embed_model, hyde_prompt, options)

    def _get_prompts(self) -> PromptDictType:
        return self._expansion.prompts()

    def _update_prompts(self, prompts: PromptDictType) -> None:
        self._expansion.update_prompts(prompts)

    def _run(self, query_bundle: QueryBundle, metadata: dict[str, Any]) -> QueryBundle:
        return self._expansion.run(query_bundle)
