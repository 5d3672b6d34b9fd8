"""`SituateHighlighter`: marks the spans of documents that match the query, and attributes an answer to documents."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document as LangChainDocument
from langchain_core.documents.compressor import BaseDocumentCompressor
from pydantic import ConfigDict, PrivateAttr

from situate.integrations._shared.component import Handle, Meaning, PicklesAsConfig
from situate.integrations._shared.marking import place_metadata
from situate.integrations._shared.origin import DEGRADED_KEY, WHERE_KEY
from situate.integrations._shared.settings import HighlightOptions
from situate.integrations.langchain.embeddings import SituateEmbeddings
from situate.integrations.langchain.rerankers import document_hits
from situate.retrievers.pipeline.steps import Trace
from situate.retrievers.types import Hit

if TYPE_CHECKING:
    from situate.retrievers.highlight import Attribution, Highlighter


class SituateHighlighter(HighlightOptions, PicklesAsConfig, BaseDocumentCompressor):
    """Marks the spans of each document that match the query best, by late token vectors: no further model.

    Keeps the documents' order and scores, and returns copies whose metadata say where each stands and what matches
    (`passage_where`, `passage_highlight`). The other settings are those of `HighlightOptions`.

    Attributes:
        embeddings: Give the token vectors; best those of the store, whose model is loaded already.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    also_known_as: ClassVar[Mapping[str, Meaning]] = {"embedding": "embeddings", "embed_model": "embeddings"}

    embeddings: SituateEmbeddings

    _handle: Handle[Any] = PrivateAttr(default_factory=Handle)
    _steps: Handle[Any] = PrivateAttr(default_factory=Handle)

    @property
    def highlighter(self) -> Highlighter:
        """The highlighter underneath."""
        embedder = self.embeddings.embedder
        settings = (id(embedder), self.at_most, self.gain, self.support)
        highlighter: Highlighter = self._handle.get(settings, partial(self._made_highlighter, embedder))
        return highlighter

    def attribute(self, answer: str, documents: Sequence[LangChainDocument]) -> Attribution:
        """For each sentence of an answer the spans of documents that support it; see `Highlighter.attribute`."""
        return self.highlighter.attribute(answer, document_hits(documents)[0])

    async def aattribute(self, answer: str, documents: Sequence[LangChainDocument]) -> Attribution:
        """`attribute` without blocking the event loop."""
        return await self.highlighter.aattribute(answer, document_hits(documents)[0])

    def compress_documents(
        self, documents: Sequence[LangChainDocument], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[LangChainDocument]:
        """The documents, in their order, with their marks.

        Args:
            documents: Passages.
            query: The query that they are matched with.
            callbacks: Not used: no LangChain model runs here.

        Raises:
            StepError: The model failed and ``on_error="raise"``.
        """
        documents = list(documents)
        hits, trace = document_hits(documents)[0], self._trace()
        work = partial(self.highlighter.highlight, query, hits)
        return _marked(documents, trace.run("highlight", work, hits) if hits else [], trace)

    async def acompress_documents(
        self, documents: Sequence[LangChainDocument], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[LangChainDocument]:
        """`compress_documents` without blocking the event loop."""
        documents = list(documents)
        hits, trace = document_hits(documents)[0], self._trace()
        work = partial(self.highlighter.ahighlight, query, hits)
        return _marked(documents, await trace.arun("highlight", work, hits) if hits else [], trace)

    def _trace(self) -> Trace:
        trace: Trace = self._steps.get(self._policy(), self._runner).trace()
        return trace


def _marked(documents: Sequence[LangChainDocument], hits: Sequence[Hit], trace: Trace) -> list[LangChainDocument]:
    degraded = {step.name: step.error for step in trace.steps if step.error is not None}
    marked: list[LangChainDocument] = []
    for document, hit in zip(documents, hits, strict=True):
        before = document.metadata
        # a found passage knows its place better than its text does, before which its context may stand
        place = {**place_metadata(hit), **({WHERE_KEY: before[WHERE_KEY]} if WHERE_KEY in before else {})}
        reasons = {DEGRADED_KEY: {**before.get(DEGRADED_KEY, {}), **degraded}} if degraded else {}
        marked.append(
            LangChainDocument(
                id=document.id,
                page_content=document.page_content,
                metadata={**copy.deepcopy(before), **place, **reasons},
            )
        )
    return marked
