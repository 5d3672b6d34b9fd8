"""`compare`: the presets on one's own documents and questions."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from situate.app.output import console, progress
from situate.chunkers.readers.files import read_documents
from situate.configuration.settings import Preset, Settings
from situate.errors import InputError
from situate.outside import load_json
from situate.retrievers.config import PipelineConfig
from situate.retrievers.evaluation.comparison import Comparison, compare
from situate.retrievers.evaluation.judgements import EvaluationSet, Judgement, load_beir, load_jsonl
from situate.retrievers.evaluation.perturbations import perturbed
from situate.retrievers.index.index import Index
from situate.retrievers.types import Hit

_BASELINE = "plain"
_DOCUMENT_MEASURES = ("nDCG@10", "R@10", "RR@10")
_SPAN_MEASURES = ("char_recall@5", "char_precision@5", "char_iou@5")
_FORM = '{"question": ..., "document": its path or id, "answer": an excerpt of it, if you like}'


def load_set(data: Path, questions: Path | None = None) -> EvaluationSet:
    """Documents and questions: a set in JSON Lines or BEIR's form, or any folder and a file of questions.

    Raises:
        InputError: There are no questions, or one names a document or an excerpt that is not there.
    """
    if questions is None and (data / "qrels.jsonl").is_file():
        return load_jsonl(data)
    if questions is None and (data / "qrels").is_dir():
        return load_beir(data)
    if questions is None:
        raise InputError(
            f"{str(data)!r} has no questions: give --questions FILE, with one a line, {_FORM}; or a set with qrels"
        )
    if not questions.is_file():
        raise InputError(f"{str(questions)!r} is no file of questions: write one a line, {_FORM}")
    documents = {document.id: document for document in read_documents(data)}
    texts: dict[str, str] = {}
    judgements: list[Judgement] = []
    for number, (where, row) in enumerate(question_rows(questions)):
        document = documents.get(str(row["document"]))
        if document is None:
            raise InputError(
                f"{where}: there is no document {row['document']!r} in {str(data)!r}; ids are paths below it"
            )
        spans = None
        if (answer := row.get("answer")) is not None:
            at = document.text.find(str(answer))
            if at < 0:
                raise InputError(f"{where}: the answer does not stand in {document.id!r}, word for word")
            spans = ((at, at + len(str(answer))),)
        texts[str(number)] = str(row["question"])
        judgements.append(Judgement(str(number), document.id, spans=spans))
    if not texts:
        raise InputError(f"{str(questions)!r} holds no question: write one a line, {_FORM}")
    with_spans = [judgement for judgement in judgements if judgement.spans is not None]
    if with_spans and len(with_spans) < len(judgements):
        # Excerpts of some alone cannot be measured together with whole documents.
        judgements = [replace(judgement, spans=None) for judgement in judgements]
    return EvaluationSet(data.resolve().name, list(documents.values()), texts, judgements)


def compare_presets(
    settings: Settings,
    data: Path,
    questions: Path | None = None,
    presets: Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    perturb: Sequence[str] | None = None,
    plot: Path | None = None,
    *,
    as_json: bool = False,
) -> int:
    """Index the documents by each preset, ask all questions, and print a table; the exit code.

    Raises:
        InputError: There is no such preset, measure or perturbation, or the data cannot be read.
    """
    known = get_args(Preset)
    chosen = list(dict.fromkeys(presets or known))
    if wrong := [name for name in chosen if name not in known]:
        raise InputError(f"there is no preset {wrong[0]!r}: {', '.join(known)}")
    for kind in perturb or ():
        perturbed((), kind, generator=settings.generator())  # type: ignore[arg-type]  # refuses one that is unknown
    found = load_set(data, questions)
    asked = tuple(measures or _measures(found))
    comparison = _measured(settings, found, chosen, asked, tuple(perturb or ()), shown=not as_json)
    baseline = _BASELINE if _BASELINE in chosen else chosen[0]
    if plot is not None and len(chosen) > 1:
        measure = next(iter(comparison.scores[baseline]))
        comparison.plot(plot, measure, baseline)
    out = console()
    out.print(comparison.to_json(baseline) if as_json else comparison.table(baseline), markup=False)
    if not as_json:
        if comparison.perturbed:
            out.print(f"\n{comparison.robustness(asked[0])}", markup=False)
        judged = len({judgement.query_id for judgement in found.judgements})
        out.print(
            f"\n{len(found.documents)} documents, {judged} questions. In brackets: points over {baseline}, with 95 % "
            "intervals of a paired bootstrap; one that contains 0 shows no difference.",
            style="dim",
            markup=False,
        )
    return 0


def _measures(found: EvaluationSet) -> tuple[str, ...]:
    return _SPAN_MEASURES if found.has_spans else _DOCUMENT_MEASURES


def _measured(
    settings: Settings,
    found: EvaluationSet,
    chosen: Sequence[str],
    measures: Sequence[str],
    perturb: Sequence[Any],
    *,
    shown: bool,
) -> Comparison:
    embedder = settings.embedder()
    characters = sum(len(document.text) for document in found.documents)
    searches: dict[str, Callable[[str], list[Hit]]] = {}
    indexes: list[Index] = []
    try:
        with progress("indexing", characters * len(chosen), shown=shown) as advance:
            for preset in chosen:
                changed = settings.model_copy(update={"preset": preset})
                _check_config(changed)
                index = changed.index(embedder=embedder)
                indexes.append(index)
                index.progress = partial(advance, note=preset)
                index.add(found.documents)
                searches[preset] = _search(index)
        more: dict[str, Any] = {"perturb": perturb, "generator": settings.generator()} if perturb else {}
        return compare(found, searches, list(measures), count_tokens=_count(embedder), **more)
    finally:
        for index in indexes:
            index.close()


def _check_config(settings: Settings) -> None:
    try:
        config: PipelineConfig = settings.pipeline()
    except InputError as error:
        raise InputError(f"config does not fit the preset {settings.preset!r}: {error}") from error
    assert config is not None


def _search(index: Index) -> Callable[[str], list[Hit]]:
    return lambda query: list(index.search(query, 100).hits)


def _count(embedder: Any) -> Callable[[str], int]:
    return lambda text: len(embedder.tokenizer.encode(text, add_special_tokens=False).ids)


def question_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The questions of a file, and where each stands.

    Raises:
        InputError: A line is no question.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            row = load_json(line.removeprefix(codecs.BOM_UTF8), where)
            if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("question", "document")):
                raise InputError(f"{where} is no question: {_FORM}")
            yield where, row
