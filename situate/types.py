"""Documents, chunks and what situates them: the values that all rooms share."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable
from uuid import UUID, uuid5

from situate.errors import InputError, SpanError

#: Namespace of every id that situate derives. Changing it would change every id ever stored.
ID_NAMESPACE = UUID("5b0d7d6c-3f0e-5c84-9a2f-6d1f5f0a3c11")

#: The metadata key of a document with pages: the character at which each page begins.
PAGE_STARTS = "page_starts"
#: The metadata key of a document that was joined from pages: for each of them, what is known of it alone.
PAGE_METADATA = "page_metadata"
#: The metadata keys that tell a chunk's pages: the first, the first and the last, and the places in these two.
PAGE, PAGES, PAGE_SPAN = "page", "pages", "page_span"


def stable_id(*parts: str) -> str:
    """A uuid5 of ``parts`` as text; injective, because every part is written with its length."""
    return str(
        uuid5(ID_NAMESPACE, "".join(f"{len(part)}:{part}" for part in parts).encode(errors="surrogatepass").hex())
    )


@dataclass(frozen=True)
class Document:
    """A text and what is known about it.

    Attributes:
        id: The caller's own id; any non-empty string.
        text: The text that chunks are spans of. Never changed by situate.
        metadata: JSON values. ``title``, ``path``, ``date`` and ``speaker`` also situate the document's chunks, and
            ``page_starts`` tells where its pages begin, ``page_metadata`` what is known of each of them.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str | None:
        """``metadata["title"]`` where it is a non-empty string."""
        title = self.metadata.get("title")
        return title if isinstance(title, str) and title.strip() else None

    @cached_property
    def page_starts(self) -> tuple[int, ...]:
        """The character at which each page begins, from 0 in ascending order; () for a text without pages.

        These are ``metadata["page_starts"]``; a value that is no such list is metadata like any other.
        """
        starts = self.metadata.get(PAGE_STARTS)
        if not isinstance(starts, list | tuple) or not all(type(start) is int for start in starts):
            return ()
        ordered = all(a <= b for a, b in pairwise((*starts, len(self.text))))
        return tuple(starts) if starts and starts[0] == 0 and ordered else ()

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of text and metadata: two documents with the same hash are indexed alike."""
        metadata = json.dumps(self.metadata, sort_keys=True, ensure_ascii=True, default=repr)
        digest = hashlib.sha256(self.text.encode(errors="surrogatepass"))
        digest.update(b"\0")
        digest.update(metadata.encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Proposition:
    """One statement of a chunk that stands without it (Chen et al. 2023).

    Attributes:
        text: The statement, pronouns resolved.
        start: First character, in the document's text, of the sentence that it comes from.
        end: One past the last character.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Context:
    """What situates a chunk in its document, kept apart from the chunk's own text.

    Attributes:
        title: The document's title.
        headings: The headings above the chunk, outermost first.
        path: Where the document came from (file path, URL).
        date: The document's date as text.
        speaker: Who speaks, in a dialogue.
        previous: The sentence before the chunk.
        sentence: A situating sentence that a language model wrote (contextual retrieval, Anthropic 2024).
        questions: Questions that the chunk answers (doc2query, Nogueira et al. 2019).
        columns: The column names of the table that the chunk's rows stand in, where the chunk lacks the header row.
        rows: The rows of tables in the chunk as sentences (`situate.chunkers.RowSituator`).
        answers: The answers to the questions, one each, "" where there is none; empty where they were not asked for.
        levels: What each question is about ("sentence", "passage", "topic"), "" where the model did not say; empty if
            none were asked for.
        propositions: The statements of the chunk, each standing alone (`situate.chunkers.PropositionSituator`).
        keyphrases: Phrases that are typical of the document (`situate.chunkers.KeyphraseSituator`).
    """

    title: str | None = None
    headings: tuple[str, ...] = ()
    path: str | None = None
    date: str | None = None
    speaker: str | None = None
    previous: str | None = None
    sentence: str | None = None
    questions: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    propositions: tuple[Proposition, ...] = ()
    keyphrases: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()

    def render(self, fields: Sequence[str] = ("title", "headings", "sentence"), separator: str = "\n") -> str:
        """The named fields that are set, in the given order, headings joined by `` > ``; "" where none is set.

        A heading equal to the title is written once. The columns of a table are written behind the headings, keyphrases
        behind the sentence.

        Raises:
            InputError: There is no such field, or ``fields`` is one name.
        """
        if isinstance(fields, str):
            raise InputError(f"the fields of a context are {fields!r}: give a list of names, [{fields!r}]")
        lines: list[str] = []
        for name in fields:
            if name not in self.__dataclass_fields__:
                raise InputError(f"a context has no field {name!r}: it has {', '.join(self.__dataclass_fields__)}")
            value = getattr(self, name)
            if name == "headings":
                value = " > ".join(h for h in self.headings if not ("title" in fields and h == self.title))
                if self.columns and "columns" not in fields:
                    value = separator.join(filter(None, (value, " | ".join(self.columns))))
            elif name == "columns":
                value = " | ".join(self.columns)
            elif name == "sentence" and "keyphrases" not in fields:
                value = separator.join(filter(None, (value, ", ".join(self.keyphrases))))
            elif name == "keyphrases":
                value = ", ".join(self.keyphrases)
            elif name == "propositions":
                value = separator.join(proposition.text for proposition in self.propositions)
            elif isinstance(value, tuple):
                value = separator.join(value)
            if value:
                lines.append(value)
        return separator.join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, as JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["propositions"] = [asdict(proposition) for proposition in self.propositions]
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if v}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Context:
        """The inverse of `to_dict`; keys that are not fields are left out."""
        known = cls.__dataclass_fields__
        taken: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items() if n in known}
        taken["propositions"] = tuple(Proposition(**each) for each in values.get("propositions") or ())
        return cls(**taken)


@dataclass(frozen=True)
class Chunk:
    """A span of a document: ``document.text[start:end] == text`` always holds.

    Attributes:
        id: A uuid5 of document id, span and text, so that indexing twice changes nothing. In a document with pages the
            span counts from the page's beginning, so that a change of a page leaves the ids of the others as they are.
        document_id: The id of the document it was cut from.
        index: Its place among the document's chunks, from 0.
        text: The chunk's own words.
        start: First character in the document's text.
        end: One past the last character.
        context: What situates it.
        metadata: The document's metadata and the caller's additions. In a document with pages ``page_starts`` gives way
            to ``page`` (the first page that the chunk stands on, from 1), ``pages`` (the first and the last) and
            ``page_span`` (its first character, counted from the first page's beginning, and one past its last, from
            the last page's).
    """

    id: str
    document_id: str
    index: int
    text: str
    start: int
    end: int
    context: Context = Context()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Document, index: int, start: int, end: int, context: Context | None = None) -> Chunk:
        """The chunk ``document.text[start:end]``.

        Raises:
            SpanError: The span is empty, reversed or outside the document.
        """
        if not 0 <= start < end <= len(document.text):
            raise SpanError(
                f"chunk {index} of document {document.id!r} has the span ({start}, {end}), "
                f"but the text has {len(document.text)} characters: spans need 0 <= start < end <= length"
            )
        text = document.text[start:end]
        metadata = _metadata(document, start, end)
        place = [str(start), str(end)]
        if document.page_starts:
            first = metadata[PAGE_SPAN][0]
            place = [f"page {metadata[PAGE]}", str(first), str(first + end - start)]
        return cls(
            id=stable_id(document.id, *place, text),
            document_id=document.id,
            index=index,
            text=text,
            start=start,
            end=end,
            context=context if context is not None else Context(title=document.title),
            metadata=metadata,
        )


def _metadata(document: Document, start: int, end: int) -> dict[str, Any]:
    """The metadata of the chunk ``document.text[start:end]``."""
    metadata = dict(document.metadata)
    if starts := document.page_starts:
        first, last = bisect_right(starts, start), bisect_right(starts, end - 1)
        del metadata[PAGE_STARTS]
        known = metadata.get(PAGE_METADATA)
        if isinstance(known, list | tuple) and len(known) == len(starts) and isinstance(known[first - 1], Mapping):
            del metadata[PAGE_METADATA]
            metadata |= known[first - 1]
        span = [start - starts[first - 1], end - starts[last - 1]]
        metadata |= {PAGE: first, PAGES: [first, last], PAGE_SPAN: span}
    return metadata


@runtime_checkable
class Chunker(Protocol):
    """Cuts a document into chunks."""

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; [] for a document that is empty or only white space."""
        ...


@runtime_checkable
class Situator(Protocol):
    """Writes what situates each chunk of a document."""

    def situate(self, document: Document, chunks: Sequence[Chunk]) -> list[Chunk]:
        """The same chunks (ids, texts and spans unchanged) with more context."""
        ...

    async def asituate(self, document: Document, chunks: Sequence[Chunk]) -> list[Chunk]:
        """`situate` without blocking the event loop."""
        ...


@dataclass(frozen=True)
class Prompt:
    """One request to a language model.

    Attributes:
        text: The request itself.
        prefix: The text before it that many prompts share (a document, say), so that a provider's prompt
            cache can hold it.
        system: The system message, if any.
    """

    text: str
    prefix: str = ""
    system: str = ""


@runtime_checkable
class TextGenerator(Protocol):
    """A language model, as HyDE, the LLM situator and the LLM rerankers see it."""

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        """One answer per prompt, in order.

        Raises:
            GenerationError: The model failed. A `PromptRefusedError` is not tried again.
        """
        ...

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        """`generate` without blocking the event loop; cancelling it cancels the requests."""
        ...


@runtime_checkable
class StreamingGenerator(TextGenerator, Protocol):
    """A `TextGenerator` whose answers can be read while they are written."""

    def stream(self, prompt: Prompt) -> Generator[str]:
        """The answer in pieces, none of them empty; closing the iterator ends the request.

        Raises:
            GenerationError: The model failed, at the start or in the middle of its answer.
        """
        ...

    def astream(self, prompt: Prompt) -> AsyncGenerator[str]:
        """`stream` without blocking the event loop."""
        ...


@runtime_checkable
class AnswerScorer(Protocol):
    """A language model whose logits are at hand: it tells how likely each of a few answers is."""

    def answer_probabilities(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        """Per prompt the probability of each answer among them.

        They sum to 1, or are all 0 where the model gave none of the answers a probability.

        Raises:
            GenerationError: The model failed. A `PromptRefusedError` is not tried again.
        """
        ...

    async def aanswer_probabilities(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        """`answer_probabilities` without blocking the event loop; cancelling it cancels the requests."""
        ...
