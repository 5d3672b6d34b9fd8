"""Questions for a corpus without a language model: its own words, taken out of what is searched."""

from __future__ import annotations

import random
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Literal, TypeAlias

from situate.chunkers.headings import markdown_headings
from situate.chunkers.sentences import sentence_spans
from situate.errors import InputError
from situate.types import Document

#: "title", "heading", "opening" and "cloze" ask with words that are taken out of the document, "anchors" and
#: "definition" with words that stay in it; "written" questions are a language model's, "given" ones the user's.
QuestionKind: TypeAlias = Literal["title", "heading", "opening", "cloze", "anchors", "definition", "written", "given"]
FREE: tuple[QuestionKind, ...] = ("title", "heading", "opening", "cloze", "anchors", "definition")
#: Kinds whose words the passage has lost, and kinds whose words it still has.
HIDDEN, STAYING = frozenset({"title", "heading", "opening", "cloze"}), frozenset({"anchors", "definition"})
#: Characters of a sentence that asks; of a title or heading that says enough; of the passage, to both sides.
_SENTENCE, _SAYS, _AROUND = range(25, 300), range(10, 150), 300
#: The rarest words of a sentence that its anchor question keeps.
_ANCHORS = 5
#: One part in so many of a document is taken out of it, at most.
_OUT = 4
_WORD = re.compile(r"[^\W\d_]\w+")
_DEFINITION = re.compile(
    r"(?:(?:An?|The) )?(?P<what>(?!It\b|This|That|The|Here|He\b|She|Wh)[^\W\d_][\w-]*(?: [\w-]+){0,2}) "
    r"(?:is|are|means|refers to) (?:an?|the)\b"
)

Span: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Question:
    """A question and what answers it.

    Attributes:
        text: The question.
        document_id: The document.
        spans: ``[start, end)`` character offsets of the passages in the document that is searched; none where the whole
            document is meant.
        kind: What it is made of.
        others: Further documents that are meant.
    """

    text: str
    document_id: str
    spans: tuple[Span, ...] = ()
    kind: QuestionKind = "given"
    others: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Found:
    """A question in a document as it is.

    Attributes:
        kind: What it is made of.
        text: The question.
        out: The span that is taken out of the document, empty for none.
        answer: The span that answers.
    """

    kind: QuestionKind
    text: str
    out: Span
    answer: Span


@dataclass(frozen=True)
class Asked:
    """A document without the words that ask about it.

    Attributes:
        source: The document as it is.
        found: The questions, with their spans in it.
    """

    source: Document
    found: tuple[Found, ...]

    @cached_property
    def outs(self) -> list[Span]:
        """The spans that are taken out, in order; no two overlap."""
        return sorted(found.out for found in self.found if found.out[0] < found.out[1])

    def moved(self, place: int) -> int:
        """Where a place of the source lies in the document."""
        return place - sum(min(end, place) - start for start, end in self.outs if start < place)

    @cached_property
    def hidden(self) -> frozenset[str]:
        """The titles and headings that ask: they are taken out of the context of chunks, too."""
        return frozenset(found.text for found in self.found if found.kind in ("title", "heading"))

    @cached_property
    def document(self) -> Document:
        """The document that is searched."""
        kept, last = [], 0
        for start, end in self.outs:
            kept.append(self.source.text[last:start])
            last = end
        metadata = {name: value for name, value in self.source.metadata.items() if str(value) not in self.hidden}
        return replace(self.source, text="".join([*kept, self.source.text[last:]]), metadata=metadata)

    @property
    def questions(self) -> list[Question]:
        """The questions with their spans in the document that is searched."""
        spans = [(self.moved(found.answer[0]), self.moved(found.answer[1])) for found in self.found]
        return [
            Question(found.text, self.source.id, (span,), found.kind)
            for found, span in zip(self.found, spans, strict=True)
            if span[0] < span[1]
        ]


def ask_corpus(
    documents: Sequence[Document], *, number: int = 800, kinds: Sequence[QuestionKind] = FREE, seed: int = 0
) -> list[Asked]:
    """What each document asks about itself; the same for the same seed.

    The inverse cloze task (Lee, Chang and Toutanova 2019), by several kinds: a sentence asks for the passage that it
    was taken out of, and so do titles, headings and opening sentences, which say what follows in other words. Those
    words are hidden from the search, which favours vectors; the rarest words of a sentence, and the thing that it
    defines, stay where they are, which favours BM25.

    Args:
        documents: The documents.
        number: How many questions, at most; documents and kinds have even shares, as far as there are questions: no
            more than a quarter of a document is taken out of it.
        kinds: Which kinds.
        seed: Of the drawing.

    Raises:
        InputError: There is no such kind, or no text to ask about; or ``number`` is less than 1.
    """
    if number < 1:
        raise InputError(f"number is {number}: ask 1 question or more")
    if unknown := sorted(set(kinds) - set(FREE)):
        raise InputError(f"kinds names {unknown[0]!r}: the corpus itself asks by {', '.join(FREE)}")
    draw = random.Random(seed)  # noqa: S311 - a sample, no secret
    frequencies = Counter(word for document in documents for word in {w.lower() for w in _WORD.findall(document.text)})
    pools: list[dict[QuestionKind, list[Found]]] = [{kind: [] for kind in kinds} for _ in documents]
    for document, pool in zip(documents, pools, strict=True):
        for found in _askable(document, frequencies):
            if found.kind in pool:
                pool[found.kind].append(found)
        for some in pool.values():
            draw.shuffle(some)
    taken: list[list[Found]] = [[] for _ in documents]
    room = [len(document.text) // _OUT for document in documents]
    order = draw.sample(range(len(documents)), len(documents))
    left, more = number, True
    while more:
        # Words that stay are never short of questions: they end with those whose words are taken out.
        more, hidden = False, HIDDEN.isdisjoint(kinds)
        for place, kind in product(order, kinds):
            if left and (new := _next(pools[place][kind], taken[place], room[place])):
                taken[place].append(new)
                room[place] -= new.out[1] - new.out[0]
                left -= 1
                more, hidden = True, hidden or kind in HIDDEN
        more = more and hidden
    if left == number:
        raise InputError(f"{len(documents)} documents hold no sentence to ask about: add text, or give questions")
    return [Asked(document, tuple(own)) for document, own in zip(documents, taken, strict=True)]


def _next(pool: list[Found], taken: Sequence[Found], room: int) -> Found | None:
    """The next question that takes nothing out of what another one takes out, or asks with."""
    while pool:
        found = pool.pop()
        start, end = found.out
        asks = [other.out if other.kind in HIDDEN else other.answer for other in taken]
        own = found.answer if found.kind not in HIDDEN else found.out
        if end - start <= room and all(own[1] <= s or own[0] >= e for s, e in asks):
            return found
    return None


def _askable(document: Document, frequencies: Counter[str]) -> Iterator[Found]:
    text, title = document.text, document.title
    body = 0
    if title is not None and len(title) in _SAYS and " " in title.strip():
        body = len(title) if text.startswith(title) else 0
        yield Found("title", title, (0, body), (body, min(len(text), body + 2 * _AROUND)))
    headings = markdown_headings(text) if "#" in text else []
    starts = [heading.start for heading in headings]
    ends = [*(heading.start for heading in headings[1:]), len(text)]
    for heading, after in zip(headings, ends[: len(headings)], strict=True):
        if len(heading.text) in _SAYS and after - heading.end >= _SENTENCE.start and heading.start >= body:
            answer = (heading.end, min(after, heading.end + 2 * _AROUND))
            yield Found("heading", heading.text, (heading.start, heading.end), answer)
    opening = True
    for start, end in sentence_spans(text, body):
        before = bisect_left(starts, end)  # no two headings overlap: the last one before the end reaches furthest
        within = before > 0 and start < headings[before - 1].end
        words = " ".join(text[start:end].split())
        if within or len(words) not in _SENTENCE:
            opening = within
            continue
        around = (max(body, start - _AROUND), min(len(text), end + _AROUND))
        yield Found("opening" if opening else "cloze", words, (start, end), around)
        opening = text[end : end + 2] == "\n\n"
        if defined := _DEFINITION.match(words):
            yield Found("definition", f"What is {defined['what']}?", (start, start), (start, end))
        rare = sorted(dict.fromkeys(_WORD.findall(words)), key=lambda word: frequencies[word.lower()])[:_ANCHORS]
        if len(rare) == _ANCHORS:
            anchors = [word for word in dict.fromkeys(_WORD.findall(words)) if word in rare]
            yield Found("anchors", " ".join(anchors), (start, start), (start, end))
