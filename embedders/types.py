"""An encoder's input and output: a text with spans, a vector per span."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from situate.errors import ConventionError, InputError
from situate.parameters import checked_parameters
from situate.vectors import Vectors as Vectors

Span: TypeAlias = tuple[int, int]
Pooling: TypeAlias = Literal["mean", "cls", "last", "weighted_mean", "max", "mean_sqrt_len"]
#: How a text without spans that is longer than the model reads is treated.
OnOverflow: TypeAlias = Literal["warn", "raise", "window"]
#: The same for all texts of an encoder: "auto" is decided by `overflow_of`.
Overflow: TypeAlias = Literal["auto", "warn", "raise", "window"]
DType: TypeAlias = Literal["auto", "float32", "bfloat16", "float16", "int8"]
Role: TypeAlias = Literal["query", "document"]


@dataclass(frozen=True, slots=True)
class SpanText:
    """A text and the character spans of it that become vectors.

    Attributes:
        text: What the model reads, instruction included.
        spans: ``[start, end)`` character offsets into ``text``, in any order, overlapping or not. ``None``: one
            vector for the whole text, special tokens pooled as the model was trained.
        prefix: The first ``prefix`` characters (an instruction, a title) lead every window that the text is read in;
            they are pooled only where a span covers them, or by the model's own convention.
        window: Tokens read at once, special tokens and prefix included; None: the model's own length. A text with
            spans that is longer is read in overlapping windows and each token is taken from the window where it
            stands most centrally, so no span ever loses tokens. A text without spans that is longer is treated as
            the encoder's ``on_overflow`` says.
        overlap: Tokens that two neighbouring windows share.
        suffix: The last ``suffix`` characters (a closing bracket, a cue) close every window that the text is read in,
            and stay where a text is cut.
        apart: Prefix and suffix are tokenised by themselves, so that none of their characters merges into a token of
            the text (SGPT's brackets were trained as tokens of their own; "end.]" would become "end" and ".]").
        again: What stands between the text and a second copy of it (echo embeddings); the second copy's tokens are
            pooled, those of the first are only read. Each window holds both copies of its part. None: one copy.
        answer: ``[start, end)`` of characters in the suffix whose tokens make the vector of a text without spans, in
            every window that it is read in (a mask, the last token of a prompt). None: all tokens.
        closed: Whether the tokenizer's special tokens close each pass.
        also: Further forms of the same text, with as many spans; a vector is pooled from the tokens of all forms.
    """

    text: str
    spans: tuple[Span, ...] | None = None
    prefix: int = 0
    window: int | None = None
    overlap: int = 64
    suffix: int = 0
    apart: bool = False
    again: str | None = None
    answer: Span | None = None
    closed: bool = True
    also: tuple[SpanText, ...] = ()


@dataclass(frozen=True, slots=True)
class SparseVector:
    """A vector of which few numbers are not zero.

    Attributes:
        indices: int64 ``[nonzero]``, ascending: vocabulary ids.
        values: float32 ``[nonzero]``: their weights.
    """

    indices: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The vectors of one `SpanText`.

    Attributes:
        vectors: float32 ``[spans, dimension]``, L2-normalised where the encoder normalises; one row where
            ``spans`` was None.
        tokens: Where requested: per span, float32 ``[tokens, dimension]``, each row L2-normalised.
        lost_tokens: Tokens that the model did not read because the text was too long. 0 in windows.
        terms: Beside ``tokens``, per span, its words' weights; None where the encoder has no head for them.
    """

    vectors: Vectors
    tokens: tuple[Vectors, ...] | None = None
    lost_tokens: int = 0
    terms: tuple[SparseVector, ...] | None = None


def overflow_of(chosen: Overflow, pooling: Pooling, role: Role) -> OnOverflow:
    """How a text that is too long is treated: "auto" reads a document in windows, and cuts a query with a warning.

    Where one token stands for everything (CLS and last-token pooling), a vector has no room for a second window: such
    models cut documents too. A query is what anyone may send, so the work on it stays bounded.
    """
    if chosen != "auto":
        return chosen
    return "window" if role == "document" and pooling not in ("cls", "last") else "warn"


def checked_texts(texts: Iterable[str]) -> list[str]:
    """The texts, if they are a list of texts.

    Raises:
        InputError: ``texts`` is one string, or holds something that is none.
    """
    if isinstance(texts, str):
        raise InputError(f"texts is one string ({texts[:40]!r}): give a list of strings")
    given = list(texts)  # a generator can be read once
    for number, text in enumerate(given):
        if not isinstance(text, str):
            raise InputError(f"text {number} of {len(given)} is a {type(text).__name__}: every text has to be a string")
    return given


@runtime_checkable
class SpanEncoder(Protocol):
    """Text + spans -> vectors, in this process or on a server."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    def encode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        """One result per input, in order.

        Raises:
            ConventionError: The engine cannot pool spans or return token vectors.
            SpanError: A span is reversed or outside its text.
            OverflowLimitError: A text is too long and ``on_overflow="raise"``.
        """
        ...

    async def aencode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        """`encode` without blocking the event loop."""
        ...


def check_plain(inputs: Sequence[SpanText], engine: str) -> None:
    """Refuse texts that only `Encoder` reads: with a second copy, a pooled answer, or several forms.

    Raises:
        ConventionError: A text is one of them.
    """
    if any(item.again is not None or item.answer is not None or item.also or not item.closed for item in inputs):
        raise ConventionError(
            f"{engine} returns a vector of the whole text: it cannot pool the answer of a prompt or an echo. Run the "
            "model in this process (Embedder(model, prompts=...) without encoder=)"
        )


def pools_spans(encoder: SpanEncoder) -> bool:
    """Whether an engine can pool a part of what it reads; one that cannot has ``pools_spans = False``."""
    return bool(getattr(encoder, "pools_spans", True))


@checked_parameters
@dataclass(frozen=True)
class ChunkScheme:
    """How a document's chunks become vectors. The default is each chunk alone.

    Attributes:
        late: Late chunking (Guenther et al. 2024): pool the chunk's tokens out of a pass over the document.
        window: Tokens that the model reads at once in late chunking; None: the number that it was trained on.
        overlap: Tokens that two windows share.
        residual: Weight of the chunk embedded alone in a mix with the late or situated vector, both normalised
            (SitEmb's factor): 0 is purely late, 1 purely alone.
        situated: Characters of the neighbouring text given on each side of a chunk (SitEmb windows); 0 for none.
            Not together with ``late``.
        neighbours: After that, add this share of the previous and the next chunk's vector, renormalise.
        centred: Whether only what the vectors have beyond the model's mean is added up. Without it a mix of chunks lies
            nearer to that mean, and so to every query, than a chunk that has no neighbours.
        context: `Context` fields written in front of what the model reads.
        pool_context: Whether the context's tokens are pooled with the chunk's. They always are where one token stands
            for everything read (CLS and last-token pooling) or the engine returns one vector a text.
    """

    late: bool = False
    window: int | None = None
    overlap: int = 64
    residual: float = 0.5
    situated: int = 0
    neighbours: float = 0.0
    centred: bool = True
    context: tuple[str, ...] = ()
    pool_context: bool = False

    def stored(self) -> dict[str, Any]:
        """What decides a chunk's vector, as JSON values; ``centred`` only where there is a mix."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        centred = values.pop("centred")
        return values | ({"centred": True} if centred and self.neighbours else {})

    def agreeing_with(self, stored: Mapping[str, Any]) -> Self:
        """This scheme, or one that mixes neighbours without the mean, as collections of before did.

        Args:
            stored: As `stored` returned it for the scheme of a collection.
        """
        return self if not self.neighbours or "centred" in stored else replace(self, centred=False)


@dataclass(frozen=True, slots=True)
class ChunkVectors:
    """The vectors of one document's chunks.

    Attributes:
        dense: float32 ``[chunks, dimension]``, L2-normalised.
        tokens: Where requested: per chunk, float32 ``[tokens, dimension]``, rows L2-normalised; late token vectors
            where the scheme is late.
        terms: Beside them, per chunk, the weights of words by the model's own head; None where it has none.
    """

    dense: Vectors
    tokens: tuple[Vectors, ...] | None = None
    terms: tuple[SparseVector, ...] | None = None
