"""`compare`: presets, configurations, models and rerankers on one's own documents and questions."""

from __future__ import annotations

import codecs
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from statistics import median
from typing import Any, get_args

from situate.app.output import checked_plot, console, print_json, progress
from situate.chunkers.readers.files import read_documents
from situate.configuration.components import RERANKERS
from situate.configuration.sections import StoreSettings
from situate.configuration.settings import Preset, Settings, load
from situate.embedders.embedder import Embedder
from situate.errors import InputError
from situate.outside import load_json
from situate.retrievers.evaluation.comparison import Comparison, compare
from situate.retrievers.evaluation.judgements import EvaluationSet, Judgement, load_beir, load_jsonl
from situate.retrievers.evaluation.measures import evaluate
from situate.retrievers.evaluation.perturbations import perturbed
from situate.retrievers.index.index import Index
from situate.retrievers.retriever import Retriever
from situate.retrievers.types import Hit

_BASELINE = "plain"
_NO_RERANKER = "none"
_DOCUMENT_MEASURES = ("nDCG@10", "R@10", "RR@10")
_SPAN_MEASURES = ("char_recall@5", "char_precision@5", "char_iou@5")
_FORM = '{"question": ..., "document": its path or id, "answer": an excerpt of it, if you like}'
#: The number of hits that a measure looks at, and how many are searched for where it looks at no number of them.
_DEPTH, _DEEP = re.compile(r"@(\d+)$"), 100
#: Sections of a configuration that decide what an index holds.
_STORED = ("model", "chunker", "situators", "preset", "config", "language_model")


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


@dataclass(frozen=True)
class Compared:
    """What is compared: every configuration with every model and every reranker.

    Attributes:
        presets: Presets, each with the rest of the command's configuration; all of them where nothing is named.
        files: Configurations of their own.
        models: Embedding models in place of each configuration's own.
        rerankers: Kinds of rerankers in place of each configuration's own; "none" for none.
    """

    presets: Sequence[str] = ()
    files: Sequence[Path] = ()
    models: Sequence[str] = ()
    rerankers: Sequence[str] = ()

    def of(self, settings: Settings) -> dict[str, Settings]:
        """Each configuration under the name of its row.

        Args:
            settings: The command's configuration.

        Raises:
            InputError: There is no such preset or reranker, a file is no configuration, or two rows have one name.
        """
        known = get_args(Preset)
        if wrong := [name for name in self.presets if name not in known]:
            raise InputError(f"there is no preset {wrong[0]!r}: {', '.join(known)}")
        if wrong := [kind for kind in self.rerankers if kind not in (_NO_RERANKER, *RERANKERS)]:
            raise InputError(f"there is no reranker {wrong[0]!r}: {_NO_RERANKER}, {', '.join(RERANKERS)}")
        presets = dict.fromkeys(self.presets or (() if self.files else known))
        rows = [(name, _of_preset(settings, name)) for name in presets]
        rows += [(file.stem, load(file)) for file in self.files]
        found: dict[str, Settings] = {}
        for (name, row), model, reranker in product(rows, self.models or (None,), self.rerankers or (None,)):
            named = name if model is None or len(self.models) == 1 else f"{name}, {model}"
            named += f" + {reranker}" if reranker not in (None, _NO_RERANKER) else ""
            if named in found:
                raise InputError(f"two configurations are named {named!r}: name each once, and rename a file")
            found[named] = _changed(row, model, reranker)
        return found


@dataclass
class _Row:
    """A configuration that is measured, and what it cost.

    Attributes:
        retriever: Answers the questions.
        indexed: Seconds for indexing; 0 where another row's index is searched.
        asked: Seconds of each search.
    """

    retriever: Retriever
    indexed: float
    asked: list[float] = field(default_factory=list)

    def search(self, query: str, depth: int) -> list[Hit]:
        """The hits for a question."""
        started = time.perf_counter()
        hits = list(self.retriever.retrieve(query, depth).hits)
        self.asked.append(time.perf_counter() - started)
        return hits


def compare_configurations(
    settings: Settings,
    data: Path,
    questions: Path | None = None,
    compared: Compared = Compared(),
    measures: Sequence[str] | None = None,
    perturb: Sequence[str] | None = None,
    plot: Path | None = None,
    *,
    as_json: bool = False,
) -> int:
    """Index the documents by each configuration, ask all questions, and print a table; the exit code.

    Raises:
        InputError: There is no such preset, reranker, measure or perturbation, or a file cannot be read or drawn.
    """
    checked_plot(plot)
    chosen = compared.of(settings)
    for kind in perturb or ():
        perturbed((), kind, generator=settings.generator())  # type: ignore[arg-type]  # refuses one that is unknown
    found = load_set(data, questions)
    asked = tuple(measures or (_SPAN_MEASURES if found.has_spans else _DOCUMENT_MEASURES))
    evaluate(_first_question(found), lambda _: [], asked, count_tokens=len)  # refuses a measure that is unknown
    with ExitStack() as stack:
        rows = _rows(chosen, found, stack, shown=not as_json)
        depth = max(int(number[1]) if (number := _DEPTH.search(name)) else _DEEP for name in asked)
        comparison = compare(
            found,
            {name: partial(row.search, depth=depth) for name, row in rows.items()},
            asked,
            count_tokens=_count(next(iter(rows.values())).retriever.index.embedder),
            perturb=tuple(perturb or ()),  # type: ignore[arg-type]
            generator=settings.generator() if perturb else None,
        )
    baseline = _BASELINE if _BASELINE in rows else next(iter(rows))
    if plot is not None and len(rows) > 1:
        comparison.plot(plot, asked[0], baseline)
    if as_json:
        costs = {name: {"indexed": row.indexed, "query": median(row.asked)} for name, row in rows.items()}
        print_json({**json.loads(comparison.to_json(baseline)), "seconds": costs})
    else:
        _show(comparison, rows, found, asked[0], baseline)
    if plot is not None and len(rows) == 1:
        console(stderr=True).print(f"--plot drew nothing: {baseline} has no other configuration beside it")
    return 0


def _first_question(found: EvaluationSet) -> EvaluationSet:
    judged = (j.query_id for j in found.judgements if j.query_id in found.queries and j.grade > 0)
    return replace(found, queries={name: found.queries[name] for name in islice(judged, 1)})


def _show(comparison: Comparison, rows: Mapping[str, _Row], found: EvaluationSet, measure: str, baseline: str) -> None:
    out = console()
    out.print(comparison.table(baseline), markup=False)
    if len(rows) > 1:
        out.print(f"\n{comparison.chart(measure, baseline)}", markup=False)
    if comparison.perturbed:
        out.print(f"\n{comparison.robustness(measure)}", markup=False)
    out.print("\n| | indexed, s | a search, ms |\n| --- | --- | --- |", markup=False)
    for name, row in rows.items():
        shared = f"{row.indexed:.1f}" if row.indexed else "as above"
        out.print(f"| {name} | {shared} | {1000 * median(row.asked):.1f} |", markup=False)
    judged = len({judgement.query_id for judgement in found.judgements})
    out.print(
        f"\n{len(found.documents)} documents, {judged} questions. In brackets: points over {baseline}, with 95 % "
        "intervals of a paired bootstrap; one that contains 0 shows no difference.",
        style="dim",
        markup=False,
    )


def _rows(chosen: Mapping[str, Settings], found: EvaluationSet, stack: ExitStack, *, shown: bool) -> dict[str, _Row]:
    """A retriever over the documents for each configuration; what is stored alike is stored once."""
    embedders: dict[str, Embedder] = {}
    indexes: dict[str, Index] = {}
    stored = {name: one.model_dump_json(include=set(_STORED)) for name, one in chosen.items()}
    characters = sum(len(document.text) for document in found.documents)
    rows: dict[str, _Row] = {}
    with progress("indexing", characters * len(set(stored.values())), shown=shown) as advance:
        for name, settings in chosen.items():
            indexed = 0.0
            if (index := indexes.get(stored[name])) is None:
                model = settings.model.model_dump_json()
                embedder = embedders[model] = embedders.get(model) or settings.embedder()
                index = indexes[stored[name]] = stack.enter_context(settings.index(embedder=embedder))
                index.progress = partial(advance, note=name)
                embedder.embed_queries(["warm up"])  # loading a model is no part of indexing
                started = time.perf_counter()
                index.add(found.documents)
                indexed = time.perf_counter() - started
            rows[name] = _Row(settings.retriever(index), indexed)
    return rows


def _of_preset(settings: Settings, preset: str) -> Settings:
    changed = settings.model_copy(update={"preset": preset})
    try:
        changed.pipeline()
    except InputError as error:
        raise InputError(f"config does not fit the preset {preset!r}: {error}") from error
    return changed


def _changed(settings: Settings, model: str | None, reranker: str | None) -> Settings:
    """The configuration in memory, with another model and reranker; a step that fails is an error here."""
    steps: dict[str, Any] = {"on_error": "raise"}
    if reranker is not None:
        named = () if reranker == _NO_RERANKER else (reranker,)
        steps["rerankers"] = load({"steps": {"rerankers": named}}).steps.rerankers
    changes: dict[str, Any] = {
        "store": StoreSettings(path=":memory:"),
        "steps": settings.steps.model_copy(update=steps),
    }
    if model is not None:
        changes["model"] = load({"model": model}).model
    return settings.model_copy(update=changes)


def _count(embedder: Embedder) -> Callable[[str], int]:
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
