"""The effect of text by a language model on `fast`: a sentence or questions per chunk, HyDE's drafts per query.

    python -m benchmarks.written FOLDER [FOLDER ...] --url http://localhost:8080/v1 --model NAME

A folder holds a judged set, as for `benchmarks.quality`; the model is on any server with OpenAI's interface (its key in
SITUATE_LLM_KEY). --documents and --characters keep a set small: its first documents, each up to so many characters, and
the queries to which something in there is relevant.

Every answer is kept in .situate/written.sqlite (--answers) with what it cost, so an interrupted run continues where it
stopped, and the printed cost is that of all answers, earlier runs' included. Prints a table per set with paired
bootstrap intervals over `fast` without the model, and writes JSON to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from tqdm.auto import tqdm

from benchmarks.quality import CACHE, RESULTS, load
from examples.generators import ChatEndpoint
from situate.chunkers import AnswerCache, AutoChunker, Chunk, Document, LLMSituator, Prompt, QuestionSituator, Situator
from situate.chunkers.situators.generating import SituatingWarning
from situate.embedders import Embedder
from situate.retrievers import Hit, Index, PipelineConfig, QuestionFilter, Retriever
from situate.retrievers.evaluation import CachedEncoder, EvaluationSet, compare
from situate.retrievers.expand.hyde import Hyde
from situate.retrievers.pipeline.steps import StepPolicy

ANSWERS = Path(".situate/written.sqlite")
#: The first place beside the usual measures: in a small part of a set five passages hold nearly every answer.
DOCUMENT_MEASURES = ("nDCG@10", "RR@10")
SPAN_MEASURES = ("char_recall@5", "char_recall@1", "char_iou@1")
#: The baseline.
WITHOUT = "fast, no language model"
#: Cosine of a question and its chunk from which on the chunk counts as its answer; not tuned.
ANSWERED = 0.5
SENTENCE, QUESTIONS, DRAFTS = "a sentence per chunk", "questions per chunk", "HyDE"


@dataclass(frozen=True)
class Answer:
    """An answer and its cost: tokens by the server's count, seconds on the clock."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class Kept:
    """A `TextGenerator` that sends one prompt at a time and keeps every answer with its cost.

    Args:
        endpoint: The language model.
        answers: Where answers are kept.
    """

    def __init__(self, endpoint: ChatEndpoint, answers: AnswerCache) -> None:
        self.endpoint = endpoint
        self.answers = answers
        self.given: dict[str, Answer] = {}

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        """One answer per prompt, in order; equal prompts of one call (HyDE's drafts) get an answer each."""
        seen: Counter[Prompt] = Counter()
        texts = []
        for prompt in prompts:
            seen[prompt] += 1
            texts.append(self._answer(prompt, seen[prompt]).text)
        return texts

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        """`generate` without blocking the event loop."""
        return await asyncio.to_thread(self.generate, prompts)

    def cost(self) -> dict[str, float]:
        """Calls, tokens and seconds of all answers, of this run or an earlier one."""
        given = self.given.values()
        return {
            "calls": len(given),
            "prompt_tokens": sum(answer.prompt_tokens for answer in given),
            "completion_tokens": sum(answer.completion_tokens for answer in given),
            "seconds": round(sum(answer.seconds for answer in given), 1),
        }

    def _answer(self, prompt: Prompt, number: int) -> Answer:
        endpoint = self.endpoint
        asked = f"{endpoint.model}, temperature {endpoint.temperature}, {endpoint.max_tokens} tokens, answer {number}"
        key = AnswerCache.key(asked, prompt)
        if key not in self.given:
            kept = self.answers.get([key])
            if not kept:
                kept = {key: json.dumps(asdict(self._asked(prompt)))}
                self.answers.put(kept)
            self.given[key] = Answer(**json.loads(kept[key]))
        return self.given[key]

    def _asked(self, prompt: Prompt) -> Answer:
        before = self.endpoint.usage.copy()
        started = time.perf_counter()
        [text] = self.endpoint.generate([prompt])
        seconds = time.perf_counter() - started
        used = self.endpoint.usage - before
        return Answer(text, used["prompt_tokens"], used["completion_tokens"], seconds)


def subset(data: EvaluationSet, documents: int | None, characters: int | None) -> EvaluationSet:
    """The first documents, each up to so many characters, and their judgements.

    A judged excerpt counts where it lies wholly in the kept part; a query is kept where a relevant excerpt is.
    """
    kept = [
        replace(document, text=document.text[:characters])
        for document in [document for document in data.documents if document.text.strip()][:documents]
    ]
    length = {document.id: len(document.text) for document in kept}
    judgements = [
        judgement
        for judgement in data.judgements
        if judgement.grade > 0
        and judgement.document_id in length
        and all(end <= length[judgement.document_id] for _, end in judgement.spans or ())
    ]
    queries = {judgement.query_id: data.queries[judgement.query_id] for judgement in judgements}
    return replace(data, documents=kept, queries=queries, judgements=judgements)


@dataclass(frozen=True)
class Settings:
    """The requests to the model.

    Attributes:
        window: Characters of the document that a prompt about a chunk shows.
        questions: Questions per chunk.
        drafts: HyDE's drafts per query.
        limit: Tokens of an answer.
        temperature: Of the sentences and questions; drafts are sampled at HyDE's 0.7.
    """

    window: int
    questions: int
    drafts: int
    limit: int
    temperature: float


class Drafted:
    """A search with HyDE that counts the queries for which no draft could be used."""

    def __init__(self, index: Index, generator: Kept, drafts: int) -> None:
        # No limit in time: a slow model is to be measured, not left out.
        policy = StepPolicy(timeout=None)
        self.retriever = Retriever(index, expander=Hyde(generator, drafts=drafts), k=100, policy=policy)
        self.degraded = 0

    def __call__(self, query: str) -> Iterable[Hit]:
        result = self.retriever.retrieve(query)
        self.degraded += bool(result.degraded)
        return result


def run(
    data: EvaluationSet,
    endpoint: Callable[[float], ChatEndpoint],
    answers: AnswerCache,
    cache: Path,
    settings: Settings,
) -> None:
    """Have the model write for one set, compare, print the table and write the results."""
    plain = Embedder()
    embedder = Embedder(encoder=CachedEncoder.of(plain, cache))
    chunker = AutoChunker(size=200, tokenizer=plain.tokenizer)
    chunks = [(document, chunker.split(document)) for document in data.documents]
    writer = endpoint(settings.temperature)
    kept = {
        SENTENCE: Kept(writer, answers),
        QUESTIONS: Kept(writer, answers),
        DRAFTS: Kept(endpoint(0.7), answers),
    }
    sentences = LLMSituator(kept[SENTENCE], window=settings.window)
    questions = QuestionSituator(kept[QUESTIONS], window=settings.window, count=settings.questions)
    situated = _situated({SENTENCE: sentences, QUESTIONS: questions}, chunks, f"{data.name}: chunks")
    fast = PipelineConfig.fast()
    in_front = replace(fast.dense, context=(*fast.dense.context, "sentence"))
    keeps = QuestionFilter(embedder, at_least=ANSWERED)
    answered = [(document, keeps.situate(document, cut)) for document, cut in situated[QUESTIONS]]
    rows = {
        WITHOUT: (chunks, fast),
        "+ sentence, BM25": (situated[SENTENCE], fast),
        "+ sentence, BM25 and dense": (situated[SENTENCE], replace(fast, dense=in_front)),
        "+ questions, BM25": (situated[QUESTIONS], fast),
        "+ questions, BM25 and by meaning (0.2)": (situated[QUESTIONS], replace(fast, questions=0.2)),
        "+ questions, BM25 and by meaning (1)": (situated[QUESTIONS], replace(fast, questions=1.0)),
        "+ answered questions, BM25": (answered, fast),
        "+ answered questions, BM25 and by meaning (0.2)": (answered, replace(fast, questions=0.2)),
        "+ answered questions, BM25 and by meaning (1)": (answered, replace(fast, questions=1.0)),
    }
    searches: dict[str, Callable[[str], Iterable[Hit]]] = {}
    with ExitStack() as stack:
        indexes: dict[str, Index] = {}
        for name, (items, config) in rows.items():
            indexes[name] = index = stack.enter_context(Index(embedder, chunker=chunker, config=config))
            index.add_chunks(items)
            searches[name] = partial(index.search, k=100)
        drafted = Drafted(indexes[WITHOUT], kept[DRAFTS], settings.drafts)
        for query in tqdm(data.queries.values(), desc=f"{data.name}: drafts", unit="query"):
            drafted(query)  # here, so that the progress bar shows the slow part
        drafted.degraded = 0
        searches["+ HyDE"] = drafted
        measures = SPAN_MEASURES if data.has_spans else DOCUMENT_MEASURES
        comparison = compare(data, searches, measures, count_tokens=chunker.count)
    failed = {
        SENTENCE: sentences.report.failed,
        QUESTIONS: questions.report.failed,
        DRAFTS: drafted.degraded,
    }
    costs = {name: generator.cost() | {"failed": failed[name]} for name, generator in kept.items()}
    counts = {"documents": len(chunks), "chunks": sum(len(cut) for _, cut in chunks), "queries": len(data.queries)}
    for name, items in (("questions", situated[QUESTIONS]), ("answered questions", answered)):
        counts[name] = sum(len(chunk.context.questions) for _, cut in items for chunk in cut)
    print(f"\n{writer.model}, {', '.join(f'{count} {what}' for what, count in counts.items())}\n")
    print(f"{comparison.table(WITHOUT)}\n\nDifferences: points over {WITHOUT!r} [95 % paired bootstrap]\n")
    print(_table(costs))
    RESULTS.mkdir(exist_ok=True)
    about = {
        "model": writer.model,
        "settings": asdict(settings),
        "subset": counts,
        "cost": costs,
        "versions": {name: version(name) for name in ("situate", "torch", "transformers", "qdrant-edge-py")},
    }
    results = json.loads(comparison.to_json(WITHOUT)) | about
    path = RESULTS / f"written-{data.name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _situated(
    situators: Mapping[str, Situator], items: Sequence[tuple[Document, list[Chunk]]], doing: str
) -> dict[str, list[tuple[Document, list[Chunk]]]]:
    situated: dict[str, list[tuple[Document, list[Chunk]]]] = {name: [] for name in situators}
    with warnings.catch_warnings():
        # One warning a document would bury the bar; the table says how many chunks were left.
        warnings.simplefilter("ignore", SituatingWarning)
        with tqdm(total=sum(len(chunks) for _, chunks in items), desc=doing, unit="chunk") as bar:
            for document, chunks in items:
                # One document after the other: a server that caches the last prompt's prefix can reuse it.
                for name, situator in situators.items():
                    situated[name].append((document, situator.situate(document, chunks)))
                bar.update(len(chunks))
    return situated


def _table(costs: dict[str, dict[str, float]]) -> str:
    columns = ("calls", "prompt_tokens", "completion_tokens", "seconds", "failed")
    rows = ["| | " + " | ".join(column.replace("_", " ") for column in columns) + " |"]
    rows.append("| --- |" + " --- |" * len(columns))
    rows += [f"| {name} | " + " | ".join(f"{cost[c]:,.0f}" for c in columns) + " |" for name, cost in costs.items()]
    return "\n".join(rows)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--url", required=True, help="the server's base, such as http://localhost:8080/v1")
    parser.add_argument("--model", required=True, help="the model's name there")
    parser.add_argument("--documents", type=int, help="how many of a set's documents, from its first; else all")
    parser.add_argument("--characters", type=int, help="how many of each document's characters; else all")
    parser.add_argument("--window", type=int, default=24_000, help="characters of a document that a prompt shows")
    parser.add_argument("--questions", type=int, default=3, help="questions per chunk")
    parser.add_argument("--drafts", type=int, default=4, help="HyDE's drafts per query")
    parser.add_argument("--limit", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--temperature", type=float, default=0.0, help="of sentences and questions; drafts have 0.7")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one answer")
    parser.add_argument("--answers", type=Path, default=ANSWERS, help="where answers are kept")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where encoded texts are kept")
    given = parser.parse_args()
    settings = Settings(given.window, given.questions, given.drafts, given.limit, given.temperature)

    def endpoint(temperature: float) -> ChatEndpoint:
        key = os.environ.get("SITUATE_LLM_KEY", "")
        limits = {"timeout": given.timeout, "max_tokens": given.limit}
        return ChatEndpoint(given.url, given.model, key, temperature=temperature, **limits)

    for folder in given.folders:
        data = subset(load(folder), given.documents, given.characters)
        run(data, endpoint, AnswerCache(given.answers), given.cache, settings)


if __name__ == "__main__":
    main()
