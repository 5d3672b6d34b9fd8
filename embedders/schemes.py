"""A `ChunkScheme`'s texts and spans for the encoder, and the mix of the resulting vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from situate.embedders.models.families import Family
from situate.embedders.types import ChunkScheme, ChunkVectors, Encoded, SpanText, Vectors
from situate.errors import ConventionError, InputError, SpanError
from situate.types import Chunk, Context, Document
from situate.vectors import check_finite, unit

#: Context fields that hold for a whole document, so that they can lead the windows it is read in.
DOCUMENT_FIELDS = ("title", "path", "date")


@dataclass(frozen=True, slots=True)
class Request:
    """The texts of one call of the encoder, with and without token vectors.

    Attributes:
        plain: Texts without token vectors.
        tokens: Texts with token vectors.
    """

    plain: tuple[SpanText, ...]
    tokens: tuple[SpanText, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The texts of one document's chunks.

    Attributes:
        alone: Each chunk by itself; () where the scheme needs none.
        late: The document with a span per chunk, or each chunk in its neighbourhood; () where the scheme needs none.
        token_vectors: Whether token vectors are wanted.
        own_tokens: One text per chunk for the token vectors, where they come from the chunks by themselves.
        whole: These texts are the chunks alone, whose vectors come of the same pass.
    """

    document: Document
    chunks: tuple[Chunk, ...]
    scheme: ChunkScheme
    alone: tuple[SpanText, ...] = ()
    late: tuple[SpanText, ...] = ()
    token_vectors: bool = False
    own_tokens: tuple[SpanText, ...] = ()
    whole: bool = False

    def request(self) -> Request:
        """The plan's texts, in the order in which `finish` wants their results."""
        if self.token_vectors and self.late:
            return Request(self.alone, self.late)
        if self.whole:
            return Request(self.late, self.own_tokens)
        return Request(self.alone + self.late, self.own_tokens)


def check_scheme(scheme: ChunkScheme, family: Family) -> None:
    """Refuse a scheme that contradicts itself or that the model is not suited to.

    Raises:
        InputError: A number is outside its range, or ``late`` and ``situated`` are both set.
        ConventionError: The model's tokens do not stand for the text around them.
    """
    if not 0.0 <= scheme.residual <= 1.0:
        raise InputError(f"residual is {scheme.residual}: it is a weight from 0 (late only) to 1 (alone only)")
    if scheme.situated < 0 or scheme.overlap < 0 or scheme.neighbours < 0 or not np.isfinite(scheme.neighbours):
        raise InputError(
            f"situated ({scheme.situated}), overlap ({scheme.overlap}) and neighbours ({scheme.neighbours}) "
            "have to be 0 or more"
        )
    if scheme.window is not None and scheme.window < 1:
        raise InputError(f"window is {scheme.window}: it is a number of tokens, or None for the model's own length")
    if scheme.late and scheme.situated:
        raise InputError("late and situated exclude each other: a late pass already reads all around each chunk")
    unknown = [name for name in scheme.context if name not in Context.__dataclass_fields__]
    if unknown:
        raise InputError(
            f"context names {unknown[0]!r}, which is no field of Context: {', '.join(Context.__dataclass_fields__)}"
        )
    if _unsuited(scheme, family) and scheme.residual < 1:
        technique = "late chunking" if scheme.late else "situated windows"
        raise ConventionError(
            f"{technique} with a model of the family {family.name!r} (pooling {family.pooling!r}): {family.late}. "
            "Use ChunkScheme(neighbours=0.35) or ChunkScheme(context=('title', 'headings')), which work with every "
            "model, or a model that pools by the mean"
        )


def check_chunks(document: Document, chunks: Sequence[Chunk]) -> None:
    """Raise for the first chunk that is not the span of the document that it claims to be.

    Raises:
        SpanError: It belongs to another document, is empty, reversed or outside, or its text differs.
    """
    length = len(document.text)
    for number, chunk in enumerate(chunks):
        where = f"chunk {number} of {len(chunks)} (index {chunk.index}, span ({chunk.start}, {chunk.end}))"
        if chunk.document_id != document.id:
            raise SpanError(f"{where} belongs to document {chunk.document_id!r}, not to {document.id!r}")
        if not 0 <= chunk.start < chunk.end <= length:
            raise SpanError(
                f"{where} of document {document.id!r}: the text has {length} characters, and spans need "
                "0 <= start < end <= length"
            )
        if document.text[chunk.start : chunk.end] != chunk.text:
            raise SpanError(
                f"{where} of document {document.id!r} does not hold its text: the document has "
                f"{_short(document.text[chunk.start : chunk.end])}, the chunk says {_short(chunk.text)}. Cut the "
                "chunks out of this very text (situate.chunkers.recover_spans finds the spans of foreign pieces)"
            )


def plan(
    document: Document,
    chunks: Sequence[Chunk],
    scheme: ChunkScheme,
    family: Family,
    *,
    trained_tokens: int | None,
    token_vectors: bool,
    whole: bool = False,
) -> Plan:
    """The plan of the texts to encode for ``chunks``.

    Args:
        document: The document that they were cut from.
        chunks: In any order, overlapping or not.
        scheme: How they become vectors.
        family: The model's conventions.
        trained_tokens: The window of a late pass where the scheme names none.
        token_vectors: Whether each chunk's token vectors are wanted too.
        whole: They are those of the whole text that is read for a chunk alone.

    Raises:
        SpanError: A chunk is not a span of the document.
    """
    check_chunks(document, chunks)
    chosen = tuple(chunks)
    if not chosen:
        return Plan(document, chosen, scheme, token_vectors=token_vectors)
    situating = scheme.late or scheme.situated > 0
    # With weight 1 on the chunk alone the late pass does not change vectors, but its token vectors may be needed.
    wants_late = situating and (scheme.residual < 1 or token_vectors) and not _unsuited(scheme, family)
    wants_alone = not situating or scheme.residual > 0
    late: tuple[SpanText, ...] = ()
    if wants_late and scheme.late:
        late = (_late_text(document, chosen, scheme, family, trained_tokens),)
    elif wants_late:
        late = tuple(_situated_text(document, chunk, scheme, family) for chunk in chosen)
    alone = tuple(_alone_text(chunk, scheme, family) for chunk in chosen) if wants_alone else ()
    if whole and token_vectors and alone and not late:
        return Plan(document, chosen, scheme, token_vectors=True, own_tokens=alone, whole=True)
    return Plan(
        document,
        chosen,
        scheme,
        alone=alone,
        late=late,
        token_vectors=token_vectors,
        own_tokens=tuple(_token_text(chunk, scheme, family) for chunk in chosen) if token_vectors and not late else (),
    )


def mixes(plan: Plan) -> bool:
    """Whether `finish` needs the model's centre for these chunks."""
    return plan.scheme.neighbours > 0 and plan.scheme.centred and len(plan.chunks) > 1


def finish(
    plan: Plan, plain: Sequence[Encoded], tokens: Sequence[Encoded], dimension: int, centre: Vectors | None = None
) -> ChunkVectors:
    """The chunks' vectors from the encoder's results for ``plan.request()``.

    Args:
        plan: The plan.
        plain: Results of the request's plain texts.
        tokens: Results of the request's texts with token vectors.
        dimension: Length of a vector, for a document without chunks.
        centre: float32 ``[dimension]``, the mean of the model's vectors, of length 1 each, where the plan `mixes`.

    Raises:
        NonFiniteVectorError: A vector holds NaN or infinity.
    """
    count = len(plan.chunks)
    if not count:
        return ChunkVectors(np.zeros((0, dimension), dtype=np.float32), () if plan.token_vectors else None)
    alone = _rows(tokens if plan.whole else plain[: len(plan.alone)])
    late = _rows(tokens if plan.token_vectors and plan.late else plain[len(plan.alone) :])
    weight = np.float32(plan.scheme.residual)
    if late is None or (alone is not None and weight >= 1):
        mixed = alone
    elif alone is None:
        mixed = late
    else:
        mixed = unit(weight * unit(alone) + (1 - weight) * unit(late))
    assert mixed is not None  # a plan with chunks reads them in one way at least
    if plan.scheme.neighbours:
        mixed = with_neighbours(mixed, plan.chunks, plan.scheme.neighbours, centre if mixes(plan) else None)
    vectors: tuple[Vectors, ...] | None = None
    if plan.token_vectors:
        vectors = tuple(matrix for encoded in tokens for matrix in encoded.tokens or ())
    check_finite(mixed, f"a vector of document {plan.document.id!r} holds")
    for matrix in vectors or ():
        check_finite(matrix, f"a token vector of document {plan.document.id!r} holds")
    terms = tuple(each for encoded in tokens for each in encoded.terms or ()) if plan.token_vectors else ()
    return ChunkVectors(mixed, vectors, terms or None)


def with_neighbours(vectors: Vectors, chunks: Sequence[Chunk], share: float, centre: Vectors | None = None) -> Vectors:
    """Each chunk's vector plus ``share`` of the previous and the next chunk's, renormalised.

    With a centre only what the vectors have beyond it is added up, and the sums are stretched: those of a document's
    chunks with as many neighbours are on average as far from the centre as these chunks were alone. A mean of several
    vectors is shorter, and so nearer to the centre and to any query.

    Neighbours are chunks that follow each other in the document. Where the chunks' indices show that one between them
    is missing, they are not neighbours: a part of a document's chunks never mixes distant ones.

    Args:
        vectors: float32 ``[chunks, dimension]``.
        chunks: Their chunks, in any order.
        share: Weight of each neighbour.
        centre: float32 ``[dimension]``, the mean of the model's vectors; None adds the vectors as they are.
    """
    order = np.array(sorted(range(len(chunks)), key=lambda i: (chunks[i].start, chunks[i].end, chunks[i].index)))
    steps = np.diff([chunks[i].index for i in order])
    adjoining = steps == 1 if (steps > 0).all() else np.ones(len(steps), dtype=bool)
    weights = (np.float32(share) * adjoining).astype(np.float32)[:, None]
    own = unit(vectors[order])
    if centre is not None:
        own -= centre
    mixed = own.copy()
    mixed[1:] += weights * own[:-1]
    mixed[:-1] += weights * own[1:]
    if centre is not None:
        near = np.zeros(len(own), dtype=np.int64)
        near[1:] += adjoining
        near[:-1] += adjoining
        alone, summed = (np.linalg.norm(rows.astype(np.float64), axis=-1) for rows in (own, mixed))
        for count in np.unique(near):
            of = near == count
            mixed[of] *= np.float32(alone[of].mean() / max(summed[of].mean(), 1e-9))
        mixed += centre
    result = np.empty_like(vectors)
    result[order] = unit(mixed)
    return result


def _unsuited(scheme: ChunkScheme, family: Family) -> bool:
    """Whether the scheme pools tokens that the model never trained to be pooled."""
    return bool(family.late) and (scheme.late or (scheme.situated > 0 and not family.situates))


def _alone_text(chunk: Chunk, scheme: ChunkScheme, family: Family) -> SpanText:
    lead = _lead(chunk.context.render(scheme.context))
    title = chunk.context.title
    written = family.document_text(lead + chunk.text, title)
    # Where one token stands for everything read, the context cannot be left out of it.
    if not lead or scheme.pool_context or family.of_one_token:
        return written
    start = written.prefix + len(lead)
    return replace(written, spans=((start, start + len(chunk.text)),), prefix=start)


def _token_text(chunk: Chunk, scheme: ChunkScheme, family: Family) -> SpanText:
    lead = _lead(chunk.context.render(scheme.context))
    pooled = 0 if scheme.pool_context else len(lead)
    text = lead + chunk.text
    return family.spans_text(text, [(pooled, len(text))], title=chunk.context.title)


def _late_text(
    document: Document, chunks: Sequence[Chunk], scheme: ChunkScheme, family: Family, trained_tokens: int | None
) -> SpanText:
    fields = tuple(name for name in scheme.context if name in DOCUMENT_FIELDS)
    return family.spans_text(
        document.text,
        [(chunk.start, chunk.end) for chunk in chunks],
        lead=_lead(_document_context(document, chunks).render(fields)),
        title=document.title,
        window=scheme.window if scheme.window is not None else trained_tokens,
        overlap=scheme.overlap,
    )


def _document_context(document: Document, chunks: Sequence[Chunk]) -> Context:
    """The context of the document as a whole: its metadata, else the fields that all its chunks share.

    Metadata come first, so that the vectors of some of a document's chunks do not depend on which chunks the call has.
    """
    values: dict[str, str] = {}
    for name in DOCUMENT_FIELDS:
        own = document.metadata.get(name)
        shared = {getattr(chunk.context, name) for chunk in chunks}
        value = own if isinstance(own, str) and own.strip() else shared.pop() if len(shared) == 1 else None
        if value:
            values[name] = value
    return Context(**values)  # type: ignore[arg-type]  # title, path and date are texts


def _situated_text(document: Document, chunk: Chunk, scheme: ChunkScheme, family: Family) -> SpanText:
    text = document.text
    start, end = max(0, chunk.start - scheme.situated), min(len(text), chunk.end + scheme.situated)
    # The model would read half a word at the edge as another word.
    while 0 < start < chunk.start and not text[start - 1].isspace():
        start += 1
    while chunk.end < end < len(text) and not text[end].isspace():
        end -= 1
    return family.situated_text(
        chunk.text,
        text[start : chunk.start],
        text[chunk.end : end],
        lead=_lead(chunk.context.render(scheme.context)),
        title=chunk.context.title,
        overlap=scheme.overlap,
    )


def _lead(context: str) -> str:
    return f"{context}\n" if context else ""


def _rows(encoded: Sequence[Encoded]) -> Vectors | None:
    return np.concatenate([item.vectors for item in encoded]) if encoded else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
