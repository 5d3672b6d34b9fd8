"""A question -> an answer with numbered sources, as events."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from situate.app.answers import CITATION, answer_prompt, cited, extract
from situate.app.web.settings import Place, WebSettings
from situate.app.web.store.conversations import Conversations, Message, turns
from situate.app.web.store.library import Library, NotFoundError
from situate.errors import ConventionError, GenerationError, InputError, StorageError
from situate.outside import safe_message
from situate.prompting import ANSWER_LIMIT, clamp, without_reasoning
from situate.retrievers.expand.rewriting import ConversationalQuery, Turn
from situate.retrievers.pipeline.tracing import otel_span
from situate.retrievers.types import Hit, SearchResult
from situate.types import PAGE_SPAN, PAGES, Chunk, Prompt, StreamingGenerator, TextGenerator

_log = logging.getLogger("situate.web")

#: Answers of more characters are shown at most every so many seconds: looking for reasoning reads the whole answer.
_LONG, _PAUSE = 4_000, 0.05

NOTHING = "Nothing relevant was found in the documents."
MODEL_FAILED = "The language model did not answer. These are the best passages."
NOT_KEPT = "The conversation could not be stored: the server's log tells why."
MODEL_BROKE_OFF = "The language model broke off here."


@dataclass(frozen=True)
class Event:
    """One event of an answer.

    Attributes:
        name: "search", "passages", "text", "replace", "notice" or "done".
        data: JSON values.
    """

    name: str
    data: dict[str, Any]


class Answering:
    """Answers questions about a collection.

    Args:
        library: The collections.
        conversations: Where questions and answers are kept.
        generator: The language model; None answers with the best spans of the best passages.
        settings: How many passages, and how relevant.
    """

    def __init__(
        self, library: Library, conversations: Conversations, generator: TextGenerator | None, settings: WebSettings
    ) -> None:
        self.library = library
        self.conversations = conversations
        self.generator = generator
        self.settings = settings

    async def answer(self, place: Place, question: str, conversation: str | None = None) -> AsyncGenerator[Event]:
        """The answer as it is found and written.

        "search": the texts that were searched for, where they differ from the question, and steps that failed.
        "passages": the sources, numbered from 1, with their places and marked spans. "text": a further piece of the
        answer; "replace": all of it so far, anew. "notice": what went wrong. "done": the conversation's id, the kind of
        answer ("model", "extract", "nothing"), the numbers that it cites, and the sources again, in which those spans
        are marked that support the answer.

        Raises:
            InputError: The question is empty or too long.
            NotFoundError: There is no such conversation.
        """
        self.check(question)
        history = await self._history(place, conversation)
        written = _Written(question)
        started = time.perf_counter()
        try:
            with otel_span("situate.web.ask"):
                async with aclosing(self._events(place, question, history, written)) as events:
                    async for event in events:
                        yield event
        except BaseException:
            if written.text:
                # The caller went away, or stops waiting: what was written until then is kept.
                asyncio.get_running_loop().run_in_executor(None, self._keep, place, conversation, written)
            raise
        try:
            conversation = await asyncio.to_thread(self._keep, place, conversation, written)
        except StorageError as error:
            # The answer is there, and stays: only the list of conversations lacks it.
            _log.error("conversation", extra={"tenant": place.tenant, "error": safe_message(error)})
            written.notice = " ".join(filter(None, (written.notice, NOT_KEPT)))
        seconds = round(time.perf_counter() - started, 3)
        told = {"tenant": place.tenant, "kind": written.kind, "passages": len(written.passages), "seconds": seconds}
        _log.info("answer", extra=told)
        yield Event("done", {"conversation": conversation, **written.to_dict()})

    def check(self, question: str) -> None:
        """Refuses what is no question.

        Raises:
            InputError: It is empty or too long.
        """
        limit = self.settings.limits.question_characters
        if not question.strip():
            raise InputError("the question is empty")
        if len(question) > limit:
            raise InputError(f"the question has {len(question):,} characters, more than {limit:,}: shorten it")

    async def _history(self, place: Place, conversation: str | None) -> tuple[Turn, ...]:
        if conversation is None:
            return ()
        messages = await asyncio.to_thread(self.conversations.messages, place, conversation)
        if messages is None:
            raise NotFoundError("there is no such conversation: begin a new one")
        return turns(messages)

    def _keep(self, place: Place, conversation: str | None, written: _Written) -> str:
        answer = Message("assistant", written.text, written.to_dict())
        return self.conversations.add(place, conversation, [Message("user", written.question, {}), answer])

    async def _events(
        self, place: Place, question: str, history: tuple[Turn, ...], written: _Written
    ) -> AsyncGenerator[Event]:
        found = await self._found(place, question, history)
        yield Event("search", _searched(found))
        hits = [hit for hit in found.hits if hit.relevance is None or hit.relevance >= self.settings.relevance]
        if not hits:
            written.text = NOTHING
            yield Event("text", {"text": written.text})
            return
        written.kind = "extract"
        written.passages = [_passage(number, hit) for number, hit in enumerate(hits, 1)]
        yield Event("passages", {"passages": written.passages})
        if self.generator is not None:
            try:
                async with aclosing(self._streamed(answer_prompt(question, hits, history), written)) as events:
                    async for event in events:
                        yield event
                await self._attribute(hits, written)
            except GenerationError as error:
                _log.warning("model", extra={"tenant": place.tenant, "error": safe_message(error)})
                written.notice = MODEL_BROKE_OFF if written.text else MODEL_FAILED
                yield Event("notice", {"text": written.notice})
        if not written.text:
            written.text = extract(hits)
            yield Event("text", {"text": written.text})

    async def _found(self, place: Place, question: str, history: tuple[Turn, ...]) -> SearchResult:
        retriever = await asyncio.to_thread(self.library.retriever, place)
        if history and self.generator is not None:
            retriever = retriever.with_expander(ConversationalQuery(self.generator, history))
        return await retriever.aretrieve(question, self.settings.passages)

    async def _streamed(self, prompt: Prompt, written: _Written) -> AsyncGenerator[Event]:
        raw = ""
        shown_at = 0.0
        async with aclosing(self._pieces(prompt)) as pieces:
            async for piece in pieces:
                raw += piece
                if len(raw) < _LONG or time.monotonic() - shown_at > _PAUSE:
                    shown_at = time.monotonic()
                    for event in written.show(raw):
                        yield event
                if len(raw) > 2 * ANSWER_LIMIT:
                    break
        for event in written.show(raw):
            yield event
        if not written.text.strip():
            raise GenerationError("the language model answered nothing but its reasoning, or nothing at all")
        written.kind = "model"

    async def _attribute(self, hits: Sequence[Hit], written: _Written) -> None:
        """Mark what supports the answer in its sources, in place of what matches the question."""
        try:
            found = await self.library.highlighter.aattribute(CITATION.sub("", written.text), hits)
        except ConventionError:
            return  # a model without token vectors
        numbers = {hit.chunk.id: number for number, hit in enumerate(hits, 1)}
        marks: dict[int, set[tuple[int, int]]] = defaultdict(set)
        for evidence in (evidence for claim in found.claims for evidence in claim.evidence):
            marks[numbers[evidence.hit.chunk.id]].add((evidence.mark.start, evidence.mark.end))
        for number, spans in marks.items():
            marked = [list(span) for span in sorted(spans)]
            written.passages[number - 1] |= {"marks": marked, "page": _page(hits[number - 1].chunk, marked)}
        written.supporting = [numbers[hit.chunk.id] for hit in found.sources]

    async def _pieces(self, prompt: Prompt) -> AsyncGenerator[str]:
        seconds = self.settings.limits.model_seconds
        generator = self.generator
        try:
            if isinstance(generator, StreamingGenerator):
                async with aclosing(generator.astream(prompt)) as pieces:
                    while True:
                        async with asyncio.timeout(seconds):
                            piece = await anext(pieces, None)
                        if piece is None:
                            return
                        yield piece
            elif generator is not None:
                async with asyncio.timeout(seconds):
                    (answer,) = await generator.agenerate([prompt])
                yield answer
        except TimeoutError:
            raise GenerationError(f"the language model wrote nothing for {seconds:g} seconds") from None


class _Written:
    """What has been written of an answer."""

    def __init__(self, question: str) -> None:
        self.question = question
        self.text = ""
        self.kind = "nothing"
        self.notice = ""
        self.passages: list[dict[str, Any]] = []
        self.supporting: list[int] = []

    @property
    def cited(self) -> list[int]:
        """The numbers of the passages that the text names; where it names none, of those that support it."""
        return cited(self.text, len(self.passages)) or sorted(self.supporting)

    def show(self, raw: str) -> list[Event]:
        """Takes over an answer's text so far, without its reasoning; what callers are told of it."""
        text = clamp(without_reasoning(raw), ANSWER_LIMIT).lstrip()
        before, self.text = self.text, text
        if text == before:
            return []
        if text.startswith(before):
            return [Event("text", {"text": text[len(before) :]})]
        return [Event("replace", {"text": text})]

    def to_dict(self) -> dict[str, Any]:
        """All but the texts, as JSON values."""
        notice = {"notice": self.notice} if self.notice else {}
        return {"kind": self.kind, "passages": self.passages, "cited": self.cited, **notice}


def _searched(found: SearchResult) -> dict[str, Any]:
    queries = next((step.details["queries"] for step in found.steps if "queries" in step.details), ())
    return {"queries": list(queries), "skipped": list(found.degraded)}


def _passage(number: int, hit: Hit) -> dict[str, Any]:
    where = hit.where
    marks = [[mark.start, mark.end] for mark in hit.highlight.marks] if hit.highlight else []
    return {
        "number": number,
        "document": where.document_id,
        "title": where.title or where.document_id,
        "headings": list(where.headings),
        "pages": list(where.pages),
        "start": where.start,
        "end": where.end,
        "text": hit.chunk.text,
        "marks": marks,
        "page": _page(hit.chunk, marks),
        "relevance": None if hit.relevance is None else round(hit.relevance, 3),
    }


def _page(chunk: Chunk, marks: Sequence[Sequence[int]]) -> int | None:
    """The page on which the first mark of a chunk begins; None in a document without pages."""
    pages, span = chunk.metadata.get(PAGES), chunk.metadata.get(PAGE_SPAN)
    if not isinstance(pages, list) or not isinstance(span, list):
        return None
    first, last = pages
    begins = chunk.start + (marks[0][0] if marks else 0)
    return int(last if begins >= chunk.end - span[1] else first)
