"""What queries of another model find in an index through a bridge, against both models' own indexes.

    python -m benchmarks.bridge FOLDER --new NAME [--old NAME] [--chunks 1500]

The folder is a set as `benchmarks.quality` reads it, of which judged documents are measured by recall@10: dense vectors
alone, a document as good as its best chunk. The bridge is fitted on the chunks' texts, never on the queries.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.quality import CACHE, load
from situate.chunkers import AutoChunker
from situate.embedders import Bridge, Embedder
from situate.embedders.types import Vectors
from situate.retrievers.evaluation import CachedEncoder


def main() -> None:
    """Fit, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--old", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--new", required=True)
    parser.add_argument("--chunks", type=int, default=1500)
    given = parser.parse_args()
    plain = [Embedder(given.old), Embedder(given.new)]
    old, new = (Embedder(one.model, family=one.family, encoder=CachedEncoder.of(one, CACHE)) for one in plain)
    data = load(given.folder)
    chunker = AutoChunker(size=100, tokenizer=old.tokenizer)
    chunks = [chunk for document in data.documents if document.text.strip() for chunk in chunker.split(document)]
    chunks = chunks[: given.chunks]
    texts = [chunk.text for chunk in chunks]
    bridge = Bridge.fit(old, new, texts, least=0.0)
    print(
        f"{len(texts)} chunks: recall {bridge.recall:.3f}, overlap of ten neighbours {bridge.overlap:.3f}", flush=True
    )
    asked = list(data.queries.values())
    theirs, queries = old.embed_documents(texts), new.embed_queries(asked)
    ways: dict[str, tuple[Vectors, Vectors]] = {
        "old": (old.embed_queries(asked), theirs),
        "bridge": (bridge(queries), theirs),
        "new": (queries, new.embed_documents(texts)),
    }
    documents = [chunk.document_id for chunk in chunks]
    for name, (left, right) in ways.items():
        scores = left @ right.T
        found = []
        for row, query in zip(scores, data.queries, strict=True):
            relevant = {judgement.document_id for judgement in data.of(query)} & set(documents)
            if not relevant:
                continue
            first = list(dict.fromkeys(documents[i] for i in np.argsort(-row)))[:10]
            found.append(len(relevant & set(first)) / min(10, len(relevant)))
        print(f"{name:8} recall@10 of judged documents {np.mean(found):.3f} ({len(found)} queries)", flush=True)


if __name__ == "__main__":
    main()
