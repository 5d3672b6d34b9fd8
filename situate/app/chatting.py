"""`chat`: questions in the terminal, answers with numbered sources."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from situate.app.answers import answer_prompt, cited, extract, written
from situate.app.output import console, print_json
from situate.app.passages import Passage, passages
from situate.configuration.settings import Settings
from situate.errors import GenerationError
from situate.retrievers.expand.rewriting import ConversationalQuery, Turn
from situate.retrievers.marks import printable
from situate.retrievers.retriever import Retriever
from situate.types import TextGenerator

_NOTHING = "Nothing relevant was found in the documents."
_HELP = "Ask a question. /new forgets the conversation, /quit ends (so does Ctrl-D)."


class Conversation:
    """Questions about an index, and their answers.

    Args:
        retriever: Finds the passages.
        generator: Writes the answers; None answers with the best passages themselves.
        passages: How many passages an answer is written from, at most.
        relevance: Passages of less relevance are no source.
    """

    def __init__(
        self, retriever: Retriever, generator: TextGenerator | None, passages: int = 6, relevance: float = 0.5
    ) -> None:
        self.retriever = retriever
        self.generator = generator
        self.passages = passages
        self.relevance = relevance
        self.history: tuple[Turn, ...] = ()

    def ask(self, question: str) -> Iterator[dict[str, Any]]:
        """The answer as it is found and written, as events.

        Yields:
            ``{"sources": [...]}``; ``{"text": further text}``, or ``{"anew": text}`` in place of all before; and at the
            end ``{"answer": text, "cited": [...], "kind": "model" | "extract" | "nothing", "error": str | None}``.
        """
        retriever = self.retriever
        if self.history and self.generator is not None:
            retriever = retriever.with_expander(ConversationalQuery(self.generator, self.history))
        found = retriever.retrieve(question, self.passages)
        hits = [hit for hit in found.hits if hit.relevance is None or hit.relevance >= self.relevance]
        yield {"sources": passages(hits)}
        answer, kind, error = "", "nothing", None
        if hits and self.generator is not None:
            kind = "model"
            try:
                for text in written(self.generator, answer_prompt(question, hits, self.history)):
                    yield {"text": text[len(answer) :]} if text.startswith(answer) else {"anew": text}
                    answer = text
            except GenerationError as failed:
                error = str(failed)
        if not answer:
            kind = "extract" if hits else "nothing"
            answer = extract(hits) if hits else _NOTHING
            yield {"text": answer}
        self.history = (*self.history, Turn("user", question), Turn("assistant", answer))
        yield {"answer": answer, "cited": cited(answer, len(hits)), "kind": kind, "error": error}


def converse(settings: Settings, *, as_json: bool) -> int:
    """Answer questions until there are no more; the exit code."""
    failed = False
    with settings.retriever() as retriever:
        conversation = Conversation(retriever, settings.generator(), settings.chat.passages, settings.chat.relevance)
        if not as_json and sys.stdin.isatty():
            model = "no language model: the best passages are the answer (--llm-url, --llm-model)"
            if settings.language_model is not None:
                model = settings.language_model.model
            console().print(f"{len(retriever.index.document_ids())} documents; {model}. {_HELP}", markup=False)
        for question in _questions():
            if question == "/new":
                conversation.history = ()
            elif question.startswith("/"):
                console(stderr=True).print(_HELP)
            else:
                answer = _printed(conversation, question, as_json)
                failed = failed or answer.get("error") is not None
    return 5 if failed else 0


def _questions() -> Iterator[str]:
    """Questions from the terminal, or the lines of the standard input."""
    if not sys.stdin.isatty():
        yield from filter(None, map(str.strip, sys.stdin))
        return
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() a history and editing keys
    while True:
        try:
            question = input("\n› ").strip()
        except EOFError:
            return
        if question in ("/quit", "/exit"):
            return
        if question:
            yield question


def _printed(conversation: Conversation, question: str, as_json: bool) -> dict[str, Any]:
    out = console()
    sources: list[Passage] = []
    last: dict[str, Any] = {}
    try:
        for last in conversation.ask(question):
            sources = last.get("sources", sources)
            if as_json:
                continue
            if "anew" in last:
                out.print()
            out.print(printable(last.get("text") or last.get("anew") or ""), end="", markup=False)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        out.print(" …")
        return {}
    if as_json:
        print_json({"question": question, **last, "sources": [passage.to_dict() for passage in sources]})
        return last
    out.print("\n")
    for passage in sources:
        style = "bold" if passage.number in last["cited"] else "dim"
        out.print(printable(f"[{passage.number}] {passage.place}"), style=style, markup=False)
    if last["error"]:
        console(stderr=True).print(
            printable(f"the language model failed: {last['error']}"), style="yellow", markup=False
        )
    return last
