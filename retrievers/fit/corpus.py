"""An index's documents that ask about themselves, indexed without the words that ask."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from situate.batches import in_batches
from situate.errors import InputError
from situate.retrievers.fit.questions import Asked, Question, ask_corpus
from situate.retrievers.index.collection import Collection
from situate.retrievers.index.index import Index
from situate.retrievers.search.query_vectors import QueryEncoder, QueryVectors, WrittenQuery
from situate.retrievers.types import QueryText
from situate.types import Chunk, Document

#: Documents whose chunks are read at once.
_READ = 64


@dataclass(frozen=True)
class Probe:
    """An index and questions about it.

    Attributes:
        index: The index.
        questions: The questions.
        vectors: Theirs, in order.
    """

    index: Index
    questions: tuple[Question, ...]
    vectors: tuple[QueryVectors, ...]

    @classmethod
    def of(cls, index: Index, questions: Sequence[Question]) -> Probe:
        """An index and questions, embedded for every signal that it stores."""
        incomplete = Collection(index.gateway).incomplete
        signals = [signal for signal in index.config.table if signal.name not in incomplete]
        encoder = QueryEncoder(index.embedder, signals)
        encoder.languages = Collection(index.gateway).languages()
        written = [WrittenQuery(each.text, [QueryText(each.text)], signals=signals) for each in questions]
        return cls(index, tuple(questions), tuple(encoder.encode_many(written)) if written else ())


@contextmanager
def corpus_probe(index: Index, own: Sequence[Question] = (), *, number: int, chunks: int, seed: int) -> Iterator[Probe]:
    """A copy in memory of an index, or of a sample of it, that is asked by its own words, without these.

    Chunks are those that are stored, with their contexts: nothing is cut or situated again, and no language model is
    called. They are embedded again, because some of their words are gone.

    Args:
        index: The index.
        own: Further questions; those about documents that are copied are asked, too.
        number: Questions, at most.
        chunks: Chunks that are copied, at most (and those of one document more).
        seed: Of the drawing.

    Raises:
        InputError: The index is empty, or holds no text to ask about; or a number is less than 1.
    """
    if chunks < 1:
        raise InputError(f"chunks is {chunks}: copy 1 or more")
    stored = list(_sample(index, chunks, seed))
    if not stored:
        raise InputError(f"the index on {index.collection!r} holds no document: add documents before fitting")
    asked = ask_corpus([document for document, _ in stored], number=number, seed=seed)
    with Index(index.embedder, chunker=index.chunker, config=index.config) as copy:
        items = [(each.document, _moved(each, own)) for each, (_, own) in zip(asked, stored, strict=True)]
        copy.add_chunks([(document, own) for document, own in items if own])
        by_id = {each.source.id: each for each in asked}
        further = [asked_of(by_id[each.document_id], each) for each in own if each.document_id in by_id]
        answered = [question for question in further if question is not None]
        yield Probe.of(copy, [*(question for each in asked for question in each.questions), *answered])


def asked_of(asked: Asked, question: Question) -> Question | None:
    """A question about the document as it was, about the document that is searched; None if that lost the answer."""
    moved = [(asked.moved(start), asked.moved(end)) for start, end in question.spans]
    spans = tuple((start, end) for start, end in moved if start < end)
    # Without spans it would ask for the whole document.
    return replace(question, spans=spans) if spans or not question.spans else None


def stored_documents(index: Index, ids: Iterable[str]) -> Iterator[tuple[Document, list[Chunk]]]:
    """Documents as their chunks hold them: what no chunk holds is white space."""
    for some in in_batches(list(ids), _READ):
        own: dict[str, list[Chunk]] = {}
        for chunk in index.get_chunks(some):
            own.setdefault(chunk.document_id, []).append(chunk)
        for name, chunks in own.items():
            text = ""
            for chunk in sorted(chunks, key=lambda chunk: (chunk.start, chunk.end)):
                text += "\n" * (chunk.start - len(text))
                text += chunk.text[len(text) - chunk.start :]
            title = next((chunk.context.title for chunk in chunks if chunk.context.title), None)
            yield Document(name, text, {"title": title} if title else {}), chunks


def _sample(index: Index, most: int, seed: int) -> Iterator[tuple[Document, list[Chunk]]]:
    names = index.document_ids()
    random.Random(seed).shuffle(names)  # noqa: S311 - a sample, no secret
    held = 0
    for document, chunks in stored_documents(index, names):
        if held >= most:
            return
        held += len(chunks)
        yield document, chunks


def _moved(asked: Asked, chunks: Sequence[Chunk]) -> list[Chunk]:
    """The chunks of the document that is searched; what asks is in none of their contexts."""
    document = asked.document
    moved: list[Chunk] = []
    for chunk in chunks:
        start, end = asked.moved(chunk.start), asked.moved(chunk.end)
        if start >= end or not document.text[start:end].strip():
            continue
        context = chunk.context
        context = replace(
            context,
            title=None if context.title in asked.hidden else context.title,
            headings=tuple(heading for heading in context.headings if heading not in asked.hidden),
            previous=None,
        )
        metadata = {name: value for name, value in chunk.metadata.items() if str(value) not in asked.hidden}
        moved.append(replace(Chunk.of(document, len(moved), start, end, context), metadata=metadata))
    return moved
