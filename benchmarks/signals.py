"""What signals cost and find: tokens pooled and in bytes, MUVERA against exhaustive MaxSim, ensembles and views.

    python -m benchmarks.signals tokens FOLDER [--model NAME]      quality against bytes
    python -m benchmarks.signals muvera FOLDER [--model NAME]      recall of MaxSim's first ten, and time
    python -m benchmarks.signals further FOLDER --second NAME      a second embedder, views, titles
    python -m benchmarks.signals keyphrases FOLDER                 a document's keyphrases in front of its chunks

A folder is a set as `benchmarks.quality` reads it. What is compared is stored in one collection, as signals without a
weight, and a search weighs one of them; forms of token vectors are compared outside of a collection.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.quality import CACHE, DOCUMENT_MEASURES, SPAN_MEASURES, load
from situate.batches import in_batches
from situate.chunkers import AutoChunker, KeyphraseSituator, Situator
from situate.embedders import ChunkScheme, Embedder
from situate.embedders.types import Vectors
from situate.retrievers import Hit, Index, PipelineConfig
from situate.retrievers.evaluation import CachedEncoder, EvaluationSet, compare
from situate.retrievers.signals.base import Signal
from situate.retrievers.signals.dense import Dense
from situate.retrievers.signals.muvera import Muvera
from situate.retrievers.signals.tokens import Tokens, TokenStorage, in_bytes, pooled
from situate.retrievers.signals.views import Views

BYTES = {"float32": 4, "float16": 2, "int8": 1}
#: Name -> how a chunk's tokens are stored.
STORED: dict[str, tuple[TokenStorage, int]] = {
    f"{kind}, pool {factor}": (kind, factor) for kind in ("float16", "int8") for factor in (1, 2, 3, 4)
}


def weighed(index: Index, weights: Mapping[str, float], base: PipelineConfig) -> Callable[[str], list[Hit]]:
    """Searches of the index's collection by these weights."""
    other = Index(index.embedder, client=index.client, config=base.weighted(weights))
    return lambda query: list(other.search(query, k=100))


def built(
    data: EvaluationSet, model: str, config: PipelineConfig, size: int = 200, situators: Sequence[Situator] = ()
) -> Index:
    """The set's documents in chunks of ``size`` tokens."""
    plain = Embedder(model)
    embedder = Embedder(model, family=plain.family, encoder=CachedEncoder.of(plain, CACHE))
    chunker = AutoChunker(size=size, tokenizer=plain.tokenizer)
    index = Index(embedder, chunker=chunker, situators=situators, config=config, progress=True)
    index.add([document for document in data.documents if document.text.strip()])
    return index


def compared(data: EvaluationSet, index: Index, ways: Mapping[str, Mapping[str, float]], base: PipelineConfig) -> str:
    """The table of these weights; the first is the baseline."""
    searches = {name: weighed(index, weights, base) for name, weights in ways.items()}
    measures = SPAN_MEASURES if data.has_spans else DOCUMENT_MEASURES
    count = index.chunker.count if isinstance(index.chunker, AutoChunker) else len
    return compare(data, searches, measures, count_tokens=count).table(next(iter(ways)))


def tokens(data: EvaluationSet, model: str, depth: int = 50) -> None:
    """Quality and bytes of each form of token vectors: MaxSim alone orders the dense best of ``quality``."""
    scheme = PipelineConfig.quality().dense
    plain = Embedder(model)
    embedder = Embedder(model, family=plain.family, encoder=CachedEncoder.of(plain, CACHE))
    chunker = AutoChunker(size=200, tokenizer=plain.tokenizer)
    chunks, dense, rows = [], [], []
    for some in in_batches([document for document in data.documents if document.text.strip()], 50):
        items = [(document, chunker.split(document)) for document in some]
        for (_, own), made in zip(items, embedder.encode_chunks(items, scheme, token_vectors=True), strict=True):
            chunks += own
            dense.append(made.dense)
            rows += [matrix.astype(np.float16) for matrix in made.tokens or ()]
    asked = list(data.queries.values())
    queries = embedder.embed_query_tokens(asked)
    best = np.argsort(-(embedder.embed_queries(asked) @ np.concatenate(dense).T), axis=1)[:, :depth]
    ranked: dict[str, dict[str, list[Hit]]] = {
        "dense alone": {
            text: [Hit(chunks[i], -float(place)) for place, i in enumerate(order)]
            for text, order in zip(asked, best, strict=True)
        }
    }
    for name, (kind, factor) in STORED.items():
        stored = [pooled(matrix.astype(np.float32), factor) for matrix in rows]
        kilobytes = np.mean([matrix.size for matrix in stored]) * BYTES[kind] / 1024
        label = f"{name}: {kilobytes:.0f} KB"
        ranked[label] = {}
        for text, query, order in zip(asked, queries, best, strict=True):
            hits = [Hit(chunks[i], _maxsim(query, stored[i], kind)) for i in order]
            ranked[label][text] = sorted(hits, key=lambda hit: -hit.score)
    measures = SPAN_MEASURES if data.has_spans else DOCUMENT_MEASURES
    searches = {name: found.__getitem__ for name, found in ranked.items()}
    print(
        compare(data, searches, measures, count_tokens=chunker.count).table(
            next(name for name in ranked if ":" in name)
        )
    )


def _maxsim(query: Vectors, rows: Vectors, kind: TokenStorage) -> float:
    """The score of a chunk; of bytes by the least distances, as the engine computes it."""
    if kind != "int8":
        return float((query @ rows.T).max(1).sum())
    query, rows = in_bytes(query), in_bytes(rows)
    distances = (query**2).sum(1)[:, None] + (rows**2).sum(1) - 2 * query @ rows.T
    return -float(np.sqrt(distances.min(1).sum()))


def muvera(data: EvaluationSet, model: str, documents: int = 1100, queries: int = 40) -> None:
    """How many of exhaustive MaxSim's first ten are found through encodings, and in which share of its time."""
    data = replace(data, documents=data.documents[:documents])
    forms = {
        "40 x 2^4 x 16": Muvera(name="muvera", weight=0.0),
        "20 x 2^5 x 16": Muvera(name="a", repetitions=20, bits=5, weight=0.0),
        "40 x 2^5 x 16": Muvera(name="b", bits=5, weight=0.0),
    }
    signals = (Tokens(weight=1.0), *forms.values())
    config = PipelineConfig(lexical=None, signals=signals)
    # Chunks so short that the set has enough of them.
    with built(data, model, config, size=48) as index:
        count, gateway = index.count(), index.gateway
        print(f"{count} chunks")
        asked = list(data.queries.values())[:queries]
        vectors = {text: index.embedder.embed_query_tokens([text])[0] for text in asked}
        exact, seconds = {}, []
        for text in asked:
            started = time.perf_counter()
            exact[text] = list(gateway.nearest({"tokens": vectors[text]}, 10, None)["tokens"])
            seconds.append(time.perf_counter() - started)
        exhaustive = float(np.median(seconds))
        print(f"exhaustive MaxSim: {1e3 * exhaustive:.1f} ms")
        for name, form in forms.items():
            for depth in (50, 100, 200):
                found, took = [], []
                for text in asked:
                    started = time.perf_counter()
                    encoding = form.of_query(vectors[text])
                    candidates = list(gateway.nearest({form.name: encoding}, depth, None)[form.name])
                    scores = gateway.maxsim(vectors[text], "tokens", candidates)
                    took.append(time.perf_counter() - started)
                    best = sorted(scores, key=lambda point: -scores[point])[:10]
                    found.append(len(set(best) & set(exact[text])) / 10)
                share = float(np.median(took)) / exhaustive
                print(f"{name:16} best {depth:3} rescored: recall {np.mean(found):.3f}, {share:.1%} of the time")


def further(data: EvaluationSet, model: str, second: str) -> None:
    """A second embedder, another scheme and views, beside ``fast``."""
    own = Embedder(second)
    other = Embedder(second, family=own.family, encoder=CachedEncoder.of(own, CACHE))
    signals: tuple[Signal, ...] = (
        Dense(other, name="second", weight=0.0),
        Dense(scheme=ChunkScheme(late=True, residual=0.0), name="late", weight=0.0),
        Dense(scheme=ChunkScheme(context=("title",), pool_context=True), name="title", weight=0.0),
        Views(weight=0.0),
    )
    base = replace(PipelineConfig.fast(), signals=signals)
    ways = {"fast": {}} | {
        f"{signal.name}, {weight}": {signal.name: weight} for signal in signals for weight in (0.15, 0.3, 0.5)
    }
    with built(data, model, base) as index:
        print(compared(data, index, ways, base))


def keyphrases(data: EvaluationSet, model: str) -> None:
    """``fast``, with each document's keyphrases before BM25's text, before the dense one's, and both."""
    plain = PipelineConfig.fast()
    context = ("headings", "keyphrases")
    forms = {
        "fast": (False, plain),
        "keyphrases for BM25": (True, plain),
        "for BM25 and dense": (True, replace(plain, dense=replace(plain.dense, context=context))),
    }
    texts = [document.text for document in data.documents]
    searches: dict[str, Callable[[str], list[Hit]]] = {}
    for name, (used, config) in forms.items():
        index = built(data, model, config, situators=[KeyphraseSituator(texts)] if used else [])
        searches[name] = weighed(index, {}, config)
    measures = SPAN_MEASURES if data.has_spans else DOCUMENT_MEASURES
    count = AutoChunker(size=200, tokenizer=Embedder(model).tokenizer).count
    print(compare(data, searches, measures, count_tokens=count).table("fast"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tokens", "muvera", "further", "keyphrases"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--second", default="intfloat/e5-small-v2")
    arguments = parser.parse_args()
    further_ = partial(further, second=arguments.second)
    run = {"tokens": tokens, "muvera": muvera, "further": further_, "keyphrases": keyphrases}
    run[arguments.what](load(arguments.folder), arguments.model)


if __name__ == "__main__":
    main()
