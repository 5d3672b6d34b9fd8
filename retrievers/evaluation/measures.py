"""Measures of a ranking: nDCG, recall and MRR through ir-measures; recall, precision and IoU of judged excerpts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from situate.errors import InputError, MissingExtraError
from situate.retrievers.evaluation.judgements import EvaluationSet, Judgement
from situate.retrievers.types import Hit

#: A measure over judged excerpts in place of documents begins so.
_EXCERPT = "excerpt_"
_SPAN_MEASURE = re.compile(r"(?P<what>char_recall|char_precision|char_iou)@(?P<k>\d+)(?P<unit>tokens)?$")

Scores = Mapping[str, NDArray[np.float64]]


def evaluate(
    data: EvaluationSet,
    search: Callable[[str], Iterable[Hit]],
    measures: Sequence[str],
    *,
    binary: bool = True,
    count_tokens: Callable[[str], int] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Run every judged query and measure its hits.

    Args:
        data: Documents are not indexed here; ``search`` is expected to know them.
        search: Query text -> hits, best first. For measures over documents a document has the rank of its best chunk.
        measures: ir-measures' names over documents ("nDCG@10", "R@100", "RR@10"), and over the characters of judged
            excerpts (Smith and Troynikov 2024) "char_recall@5", "char_precision@5", "char_iou@5": the union of the
            first 5 chunks against the union of the excerpts. "char_recall@800tokens" takes as many whole chunks as
            fit into 800 tokens. "excerpt_nDCG@10": any of ir-measures', where every judged excerpt of the set is what a
            document is elsewhere. It has the rank of the first chunk that lies in it by half, or holds half of it.
        binary: Count any grade above 0 as 1.
        count_tokens: Tokens of a text; needed for a token budget.

    Returns:
        Measure -> float64 ``[queries]``, in the order of the judged queries.

    Raises:
        InputError: A measure is unknown or does not fit the judgements.
    """
    judged: dict[str, list[Judgement]] = {}
    for judgement in data.judgements:
        if judgement.query_id in data.queries and judgement.grade > 0:
            judged.setdefault(judgement.query_id, []).append(judgement)
    runs = {query_id: list(search(data.queries[query_id])) for query_id in judged}
    over_spans = [name for name in measures if _SPAN_MEASURE.match(name)]
    over_excerpts = [name for name in measures if name.startswith(_EXCERPT)]
    if (over_spans or over_excerpts) and not data.has_spans:
        name = (over_spans + over_excerpts)[0]
        raise InputError(f"{name!r} needs judged excerpts, and {data.name!r} judges whole documents")
    over_documents = [name for name in measures if name not in (*over_spans, *over_excerpts)]
    ranked = {query: [hit.chunk.document_id for hit in hits] for query, hits in runs.items()}
    scores = _ranked(over_documents, judged, ranked, binary)
    scores |= _over_excerpts(over_excerpts, judged, runs, binary)
    for name in over_spans:
        scores[name] = np.array(
            [_span_score(name, judged[query_id], runs[query_id], count_tokens) for query_id in judged]
        )
    return scores


def _over_excerpts(
    names: Sequence[str], judged: Mapping[str, list[Judgement]], runs: Mapping[str, list[Hit]], binary: bool
) -> dict[str, NDArray[np.float64]]:
    every = {(j.document_id, span) for judgements in judged.values() for j in judgements for span in j.spans or ()}
    excerpts: dict[str, list[tuple[int, int]]] = {}
    for document_id, span in sorted(every):
        excerpts.setdefault(document_id, []).append(span)
    relevant = {
        query: [
            replace(j, document_id=_named(j.document_id, span), spans=None)
            for j in judgements
            for span in j.spans or ()
        ]
        for query, judgements in judged.items()
    }
    ranked = {
        query: [
            _named(hit.chunk.document_id, span)
            for hit in hits
            for span in excerpts.get(hit.chunk.document_id, ())
            if _by_half((hit.chunk.start, hit.chunk.end), span)
        ]
        for query, hits in runs.items()
    }
    scores = _ranked([name.removeprefix(_EXCERPT) for name in names], relevant, ranked, binary)
    return {_EXCERPT + name: values for name, values in scores.items()}


def _named(document_id: str, span: tuple[int, int]) -> str:
    return f"{document_id}#{span[0]}-{span[1]}"


def _by_half(chunk: tuple[int, int], excerpt: tuple[int, int]) -> bool:
    """Whether the two have half of either in common."""
    common = min(chunk[1], excerpt[1]) - max(chunk[0], excerpt[0])
    return 2 * common >= min(chunk[1] - chunk[0], excerpt[1] - excerpt[0])


def _ranked(
    names: Sequence[str], judged: Mapping[str, list[Judgement]], runs: Mapping[str, list[str]], binary: bool
) -> dict[str, NDArray[np.float64]]:
    """Measures over ids: those judged, and those found, best first, each counted where it comes first."""
    if not names:
        return {}
    try:
        import ir_measures
    except ImportError as error:
        raise MissingExtraError.of("ir-measures", "evaluation", "measuring rankings") from error
    try:
        measures = {name: ir_measures.parse_measure(name) for name in names}
    except (NameError, ValueError) as error:
        raise InputError(f"one of {list(names)} is not a measure that ir-measures knows: {error}") from error
    qrels = [
        ir_measures.Qrel(query_id, j.document_id, 1 if binary else round(j.grade))
        for query_id, judgements in judged.items()
        for j in judgements
    ]
    ranked = [
        # Ranks, not scores: ties must count in the caller's order.
        ir_measures.ScoredDoc(query_id, document_id, 1.0 / place)
        for query_id, found in runs.items()
        for place, document_id in enumerate(dict.fromkeys(found), start=1)
    ]
    place = {query_id: i for i, query_id in enumerate(judged)}
    scores = {name: np.zeros(len(judged)) for name in names}
    name_of = {str(measure): name for name, measure in measures.items()}
    for metric in ir_measures.iter_calc(list(measures.values()), qrels, ranked):
        scores[name_of[str(metric.measure)]][place[metric.query_id]] = metric.value
    return scores


def _span_score(
    name: str, judgements: Sequence[Judgement], hits: Sequence[Hit], count_tokens: Callable[[str], int] | None
) -> float:
    match = _SPAN_MEASURE.match(name)
    if match is None:  # the caller only passes names that match
        raise InputError(f"unknown measure {name!r}")
    limit = int(match["k"])
    if match["unit"]:
        if count_tokens is None:
            raise InputError(f"{name!r} needs count_tokens=, to know how many chunks fit into its budget")
        taken: list[Hit] = []
        for hit in hits:
            limit -= count_tokens(hit.chunk.text)
            if limit < 0:
                break
            taken.append(hit)
    else:
        taken = list(hits[:limit])
    relevant = _characters((j.document_id, span) for j in judgements for span in j.spans or ())
    retrieved = _characters((hit.chunk.document_id, (hit.chunk.start, hit.chunk.end)) for hit in taken)
    common = sum(len(relevant[d] & retrieved.get(d, set())) for d in relevant)
    wanted = sum(map(len, relevant.values()))
    got = sum(map(len, retrieved.values()))
    match match["what"]:
        case "char_recall":
            return common / wanted if wanted else 0.0
        case "char_precision":
            return common / got if got else 0.0
        case _:
            return common / (wanted + got - common) if wanted + got else 0.0


def _characters(spans: Iterable[tuple[str, tuple[int, int]]]) -> dict[str, set[int]]:
    """Document -> the characters that the spans cover, each once."""
    covered: dict[str, set[int]] = {}
    for document_id, (start, end) in spans:
        covered.setdefault(document_id, set()).update(range(start, end))
    return covered
