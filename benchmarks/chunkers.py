"""Retrieval quality of the chunkers, within a budget of tokens and at a fixed number of chunks.

    python -m benchmarks.chunkers FOLDER [--document ID ...]

A folder holds JSON Lines with judged excerpts (documents.jsonl, queries.jsonl, qrels.jsonl). Every chunker's chunks are
embedded alone and searched by cosine, so that nothing but the cut differs. Encoded texts are kept in
.situate/encoded.sqlite (--cache), also for the chunkers that embed sentences to find where to cut.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from benchmarks.quality import CACHE
from situate.chunkers import (
    Chunker,
    ClusterSemanticChunker,
    FixedTokenChunker,
    SemanticChunker,
    SentenceWindowChunker,
    TextChunker,
)
from situate.embedders import Embedder
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.evaluation import CachedEncoder, EvaluationSet, compare, load_jsonl

BASELINE = "recursive, 200 tokens"
MEASURES = ("char_recall@800tokens", "char_recall@5", "char_iou@5")


def chunkers(embedder: Embedder) -> dict[str, Chunker]:
    """The compared chunkers, by name."""
    tokenizer, embed = embedder.tokenizer, embedder.embed_documents
    return {
        BASELINE: TextChunker(size=200, tokenizer=tokenizer),
        "recursive, 100 tokens": TextChunker(size=100, tokenizer=tokenizer),
        "recursive, 400 tokens": TextChunker(size=400, tokenizer=tokenizer),
        "fixed, 200 tokens": FixedTokenChunker(200, tokenizer=tokenizer),
        "fixed, 200 tokens, 50 shared": FixedTokenChunker(200, overlap=50, tokenizer=tokenizer),
        "sentences": SentenceWindowChunker(200, tokenizer=tokenizer),
        "semantic breakpoints": SemanticChunker(200, tokenizer=tokenizer, embed=embed),
        "cluster-semantic": ClusterSemanticChunker(200, tokenizer=tokenizer, embed=embed),
    }


def only(data: EvaluationSet, documents: list[str]) -> EvaluationSet:
    """The part of the set on these documents."""
    judgements = [judgement for judgement in data.judgements if judgement.document_id in documents]
    asked = {judgement.query_id for judgement in judgements}
    return replace(
        data,
        documents=[document for document in data.documents if document.id in documents],
        queries={query_id: text for query_id, text in data.queries.items() if query_id in asked},
        judgements=judgements,
    )


def run(data: EvaluationSet, model: str, cache: Path | None) -> None:
    """Cut, embed and search with every chunker; print the table."""
    plain = Embedder(model)
    embedder = Embedder(model, encoder=CachedEncoder.of(plain, cache))
    count = TextChunker(tokenizer=plain.tokenizer).count
    searches, about = {}, []
    for name, chunker in tqdm(chunkers(embedder).items(), desc=data.name, unit="chunker"):
        index = Index(embedder, chunker=chunker, config=PipelineConfig.plain())
        started = time.process_time()
        cut = [(document, chunker.split(document)) for document in data.documents]
        seconds = time.process_time() - started
        index.add_chunks(cut)
        searches[name] = index.search
        sizes = [count(chunk.text) for _, chunks in cut for chunk in chunks]
        about.append(f"{name}: {len(sizes)} chunks of {sum(sizes) / len(sizes):.0f} tokens, cut in {seconds:.1f} s CPU")
    wide = {name: (lambda query, search=search: search(query, k=100)) for name, search in searches.items()}
    print(f"\n{compare(data, wide, MEASURES, count_tokens=count).table(BASELINE)}\n")
    print("\n".join(about))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--document", action="append", help="only this document; may be given several times")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where encoded texts are kept")
    arguments = parser.parse_args()
    data = load_jsonl(arguments.folder)
    run(only(data, arguments.document) if arguments.document else data, arguments.model, arguments.cache)


if __name__ == "__main__":
    main()
