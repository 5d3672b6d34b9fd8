"""`fit`: settings of the search for the documents that are stored."""

from __future__ import annotations

from pathlib import Path

from situate.app.comparing import question_rows
from situate.app.output import checked_plot, console, print_json
from situate.configuration.components import RERANKERS
from situate.configuration.settings import Settings, load
from situate.errors import InputError
from situate.retrievers.evaluation.judgements import EvaluationSet, Judgement
from situate.retrievers.fit.corpus import stored_documents
from situate.retrievers.fit.fitting import REBUILD, fit
from situate.retrievers.fit.lora import fit_lora
from situate.retrievers.index.index import Index
from situate.retrievers.types import Reranker


def fit_stored(
    settings: Settings,
    questions: Path | None = None,
    plot: Path | None = None,
    output: Path | None = None,
    *,
    same_cost: bool = False,
    rebuild: int = REBUILD,
    teacher: str | None = None,
    lora: Path | None = None,
    as_json: bool = False,
) -> int:
    """Fit the search to the stored documents, and print the report; the exit code.

    Raises:
        InputError: The store is empty, a question names a document or an excerpt that is not there, there is no such
            reranker, or a LoRA is asked for without a GPU.
    """
    if teacher is not None and teacher not in RERANKERS:
        raise InputError(f"there is no reranker {teacher!r} to teach: {', '.join(RERANKERS)}")
    given = {"--questions": questions, "--plot": plot, "--output": output, "--same-cost": same_cost, "--json": as_json}
    if lora is not None and (unused := [name for name, value in {**given, "--teacher": teacher}.items() if value]):
        raise InputError(f"--lora trains and judges by itself, and uses no {', '.join(unused)}: leave that out")
    checked_plot(plot)
    with settings.index() as index:
        own = None if questions is None else stored_questions(index, questions)
        if lora is not None:
            verdict = fit_lora(index, lora)
            console().print(f"LoRA in {lora}: {verdict.written()}", markup=False, soft_wrap=True)
            return 0
        found = fit(
            index,
            questions=own,
            generator=settings.generator(),
            same_cost=same_cost,
            rebuild=rebuild,
            teacher=None if teacher is None else _reranker(settings, index, teacher),
        )
    if plot is not None and found.verdicts:
        found.plot(plot)
    if output is not None:
        found.save(output)
    if as_json:
        verdicts = [
            {
                "name": v.name,
                "used": v.used,
                "points": 100 * v.judged.mean,
                "interval": [100 * v.judged.low, 100 * v.judged.high],
            }
            for v in found.verdicts
        ]
        threshold = None if found.threshold is None else found.threshold.value
        about = {"tried": found.tried, "encoded": found.encoded, "asked": dict(found.asked), "verdicts": verdicts}
        print_json({"config": found.written(), "rebuilt": found.written_build(), "threshold": threshold} | about)
    else:
        console().print(found.table(), markup=False, soft_wrap=True)
    if plot is not None and not found.verdicts:
        console(stderr=True).print("--plot drew nothing: no setting was good enough to be judged")
    return 0


def _reranker(settings: Settings, index: Index, kind: str) -> Reranker:
    steps = settings.steps.model_copy(update={"rerankers": load({"steps": {"rerankers": (kind,)}}).steps.rerankers})
    return settings.model_copy(update={"steps": steps}).retriever(index).rerankers[0]


def stored_questions(index: Index, file: Path) -> EvaluationSet:
    """Questions in a file, a line of JSON each, about documents that are stored.

    Raises:
        InputError: A line is none, or names a document or an excerpt that is not stored.
    """
    rows = list(question_rows(file))
    texts = {
        document.id: document.text for document, _ in stored_documents(index, {row["document"] for _, row in rows})
    }
    queries: dict[str, str] = {}
    judgements: list[Judgement] = []
    for number, (where, row) in enumerate(rows):
        text, answer = texts.get(row["document"]), row.get("answer")
        if text is None:
            raise InputError(f"{where}: there is no document {row['document']!r} in the store; ids are paths")
        at = text.find(str(answer)) if answer is not None else 0
        if at < 0:
            raise InputError(f"{where}: the answer does not stand in {row['document']!r}, word for word")
        queries[str(number)] = row["question"]
        spans = None if answer is None else ((at, at + len(str(answer))),)
        judgements.append(Judgement(str(number), row["document"], spans=spans))
    return EvaluationSet(file.stem, [], queries, judgements)
