"""The stored form of answers in a semantic cache, and their equality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Generic, Protocol, TypeVar

from situate.embedders.types import Vectors
from situate.errors import InputError
from situate.retrievers.marks import Highlight, Mark
from situate.retrievers.types import Hit, SearchResult
from situate.types import Chunk, Context

T = TypeVar("T")


class DocumentEmbedder(Protocol):
    """The part of an `Embedder` that embeds texts as documents."""

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """float32 ``[texts, dimension]``, L2-normalised."""
        ...


def _none(_: Any) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Codec(Generic[T]):
    """A kind of answer.

    Attributes:
        encode: The answer as a JSON value.
        decode: The inverse.
        same: Whether two answers are equal in meaning; the cache's bound is about this.
        document_ids: The documents that an answer rests on.
    """

    encode: Callable[[T], Any]
    decode: Callable[[Any], T]
    same: Callable[[T, T], bool]
    document_ids: Callable[[T], Sequence[str]] = _none


def _text(value: str) -> str:
    return value


def same_text(a: str, b: str) -> bool:
    """Whether two texts differ in white space and case only."""
    return " ".join(a.casefold().split()) == " ".join(b.casefold().split())


def alike(embedder: DocumentEmbedder, cosine: float = 0.9) -> Callable[[str, str], bool]:
    """A comparison of texts by meaning, for the answers of a language model that samples.

    Args:
        embedder: Embeds both texts as documents.
        cosine: Texts that are at least so near are the same. Numbers and negations weigh little in an embedding: a
            judgement by a language model is surer.

    Raises:
        InputError: ``cosine`` is no cosine.
    """
    if not -1 <= cosine <= 1:
        raise InputError(f"cosine={cosine} must lie between -1 and 1")

    def same(a: str, b: str) -> bool:
        if same_text(a, b):
            return True
        one, other = embedder.embed_documents([a, b])
        return bool(float(one @ other) >= cosine)

    return same


def _encode_result(result: SearchResult) -> Any:
    return {
        "query": result.query,
        "hits": [
            {
                "chunk": {
                    "id": hit.chunk.id,
                    "document_id": hit.chunk.document_id,
                    "index": hit.chunk.index,
                    "text": hit.chunk.text,
                    "start": hit.chunk.start,
                    "end": hit.chunk.end,
                    "context": hit.chunk.context.to_dict(),
                    "metadata": dict(hit.chunk.metadata),
                },
                "score": hit.score,
                "scores": dict(hit.scores),
                "relevance": hit.relevance,
                **({"matched": dict(hit.matched)} if hit.matched else {}),
                **({} if hit.highlight is None else {"marks": [list(astuple(mark)) for mark in hit.highlight.marks]}),
            }
            for hit in result.hits
        ],
    }


def _decode_result(value: Any) -> SearchResult:
    hits = tuple(
        Hit(
            Chunk(**{**hit["chunk"], "context": Context.from_dict(hit["chunk"]["context"])}),
            hit["score"],
            hit["scores"],
            hit.get("relevance"),
            _highlight(hit),
            hit.get("matched") or {},
        )
        for hit in value["hits"]
    )
    return SearchResult(value["query"], hits)


def _highlight(hit: Any) -> Highlight | None:
    return Highlight(hit["chunk"]["text"], tuple(Mark(*mark) for mark in hit["marks"])) if "marks" in hit else None


def _same_hits(a: SearchResult, b: SearchResult) -> bool:
    return [hit.chunk.id for hit in a.hits[:3]] == [hit.chunk.id for hit in b.hits[:3]]


def _documents(result: SearchResult) -> Sequence[str]:
    return sorted({hit.chunk.document_id for hit in result.hits})


#: Completions of a prompt; the same where they differ in white space and case only. The answers of a language model
#: that samples always differ: give it a codec whose ``same`` compares meanings.
TEXT: Codec[str] = Codec(_text, _text, same_text)

#: Results of a search; the same where their first three hits are. The steps are not kept.
RESULTS: Codec[SearchResult] = Codec(_encode_result, _decode_result, _same_hits, _documents)
