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
from numpy.typing import NDArray
from qdrant_client import models

from benchmarks.quality import CACHE, DOCUMENT_MEASURES, SPAN_MEASURES, load
from situate.batches import in_batches
from situate.chunkers import AutoChunker, KeyphraseSituator, Situator
from situate.embedders import ChunkScheme, Embedder
from situate.embedders.types import Vectors
from situate.retrievers import Hit, Index, PipelineConfig
from situate.retrievers.evaluation import CachedEncoder, EvaluationSet, compare
from situate.retrievers.search.gateway import EdgeGateway
from situate.retrievers.signals.base import Signal
from situate.retrievers.signals.dense import Dense
from situate.retrievers.signals.muvera import Muvera
from situate.retrievers.signals.tokens import Tokens, TokenStorage, in_bytes, pooled
from situate.retrievers.signals.views import Views
from situate.retrievers.storage.edge import EdgeClient
from situate.retrievers.storage.ids import point_id

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


def muvera(data: EvaluationSet, model: str, kept: Path | None = None, documents: int = 1100, queries: int = 40) -> None:
    """How many of exhaustive MaxSim's first ten are found through encodings, and in which share of its time.

    Each query is asked in every way before the next one, so that a busy machine slows all of them alike.
    """
    rows, asked = _token_vectors(data, model, documents, queries, kept)
    forms = {
        "40 x 2^4 x 16": Muvera(name="muvera"),
        "20 x 2^4 x 16": Muvera(name="half", repetitions=20),
    }
    embedder = Embedder(model)
    stored = {"float16": Tokens(), "int8": Tokens(name="bytes", datatype="int8")}
    with EdgeClient(auto_optimize=False) as client:
        signals = (*stored.values(), *forms.values())
        dimension = asked[0].shape[1]
        params = {s.name: s.params(dimension, models.Distance.COSINE) for s in signals}
        for form in forms.values():
            params[form.name].hnsw_config = models.HnswConfigDiff(m=0)
        client.create_collection("c", params, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1000))
        for some in in_batches(list(enumerate(rows)), 256):
            points = []
            for i, matrix in some:
                own = matrix.astype(np.float32)
                vector: dict[str, object] = {
                    form.name: form.of_document(form.around(embedder, [own])[0]) for form in forms.values()
                }
                vector |= {"tokens": own, "bytes": in_bytes(own)}
                points.append(models.PointStruct.model_construct(id=point_id(i + 1), vector=vector, payload={}))
            client.upsert("c", points)
        gateway = EdgeGateway(client, "c")
        print(f"{len(rows)} chunks, {len(asked)} queries")
        ways: list[tuple[str, int, str, int | None]] = [
            (name, depth, "float16", None) for name in forms for depth in (50, 100, 200)
        ]
        default = next(iter(forms))
        ways += [(default, depth, kind, at_once) for depth in (100, 200) for kind in stored for at_once in (16, None)]
        _ask(gateway, asked, forms, stored, list(dict.fromkeys(ways)), embedder)
        own = [way for way in dict.fromkeys(ways) if way[0] == default and way[3] is None]
        int8 = models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        )
        codes = models.QuantizationSearchParams(rescore=False)
        print("the default encodings by int8 codes:")
        started = time.perf_counter()
        client.update_collection("c", vectors_config={"muvera": models.VectorParamsDiff(quantization_config=int8)})
        client.optimize("c")
        print(f"built in {time.perf_counter() - started:.0f} s", flush=True)
        gateway.params = models.SearchParams(quantization=codes)
        _ask(gateway, asked, forms, stored, own, embedder)


def _ask(
    gateway: EdgeGateway,
    asked: Sequence[Vectors],
    forms: Mapping[str, Muvera],
    stored: Mapping[str, Tokens],
    ways: Sequence[tuple[str, int, str, int | None]],
    embedder: Embedder,
) -> None:
    """Print what each way (encoding, candidates, form of the tokens, chunks rescored in a request) finds and takes.

    Time is that of the processor, of all threads, because a busy machine stretches the clock's.
    """
    exhaustive: list[float] = []
    seconds: dict[object, list[tuple[float, float, float]]] = {way: [] for way in ways}
    recall: dict[object, list[float]] = {way: [] for way in ways}
    for query in asked:
        started = time.process_time()
        exact = set(gateway.nearest({"tokens": query}, 10, None)["tokens"])
        exhaustive.append(time.process_time() - started)
        for way in ways:
            name, depth, kind, gateway.maxsim_at_once = way
            form, tokens_ = forms[name], stored[kind]
            times = [time.process_time()]
            encoding = form.of_query(form.around(embedder, [query])[0])
            times.append(time.process_time())
            candidates = list(gateway.nearest({form.name: encoding}, depth, None)[form.name])
            times.append(time.process_time())
            scores = tokens_.scores(gateway, query, candidates)
            times.append(time.process_time())
            a, b, c, d = times
            seconds[way].append((b - a, c - b, d - c))
            best = sorted(scores, key=lambda point: -scores[point])[:10]
            recall[way].append(len(set(best) & exact) / 10)
    whole = float(np.median(exhaustive))
    print(f"exhaustive MaxSim: {1e3 * whole:.1f} ms; shares of it: encoding, finding, rescoring, together")
    for way, spent in seconds.items():
        parts = np.median(np.array(spent), axis=0) / whole
        shares = " + ".join(f"{part:.1%}" for part in parts)
        together = float(np.median(np.sum(spent, axis=1))) / whole
        print(f"{way}: recall {np.mean(recall[way]):.3f}, {shares} = {together:.1%}", flush=True)


def _token_vectors(
    data: EvaluationSet, model: str, documents: int, queries: int, kept: Path | None
) -> tuple[list[NDArray[np.float16]], list[Vectors]]:
    """The token vectors of chunks of 48 tokens, so that the set has enough of them, and of queries.

    Args:
        data: The set.
        model: The embedder's.
        documents: How many documents are cut.
        queries: How many queries are asked.
        kept: Where they are kept (.npz), and read again.
    """
    if kept is None or not kept.is_file():
        embedder = Embedder(model)
        chunker = AutoChunker(size=48, tokenizer=embedder.tokenizer)
        rows: list[NDArray[np.float16]] = []
        for some in in_batches([d for d in data.documents[:documents] if d.text.strip()], 32):
            items = [(document, chunker.split(document)) for document in some]
            for made in embedder.encode_chunks(items, ChunkScheme(), token_vectors=True):
                rows += [matrix.astype(np.float16) for matrix in made.tokens or ()]
        asked = embedder.embed_query_tokens(list(data.queries.values())[:queries])
        if kept is None:
            return rows, asked
        counts = {"n": [len(matrix) for matrix in rows], "qn": [len(matrix) for matrix in asked]}
        np.savez(kept, rows=np.concatenate(rows), q=np.concatenate(asked), **counts)
    with np.load(kept) as arrays:
        found, queried = (
            np.split(arrays[name], np.cumsum(arrays[count])[:-1]) for name, count in (("rows", "n"), ("q", "qn"))
        )
    return found, queried[:queries]


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
    measures = SPAN_MEASURES if data.has_spans else DOCUMENT_MEASURES
    count = AutoChunker(size=200, tokenizer=Embedder(model).tokenizer).count
    searches: dict[str, Callable[[str], list[Hit]]] = {}
    for name, (used, config) in forms.items():
        index = built(data, model, config, situators=[KeyphraseSituator(texts)] if used else [])
        searches[name] = weighed(index, {}, config)
        if len(searches) > 1:  # each form against the first, as soon as it is built: the last is embedded anew
            part = {known: searches[known] for known in ("fast", name)}
            print(compare(data, part, measures, count_tokens=count).table("fast"), flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tokens", "muvera", "further", "keyphrases"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--second", default="intfloat/e5-small-v2")
    parser.add_argument("--queries", type=int, default=40, help="how many queries muvera asks")
    parser.add_argument("--kept", type=Path, help="where the token vectors of muvera are kept (.npz)")
    arguments = parser.parse_args()
    further_ = partial(further, second=arguments.second)
    muvera_ = partial(muvera, kept=arguments.kept, queries=arguments.queries)
    run = {"tokens": tokens, "muvera": muvera_, "further": further_, "keyphrases": keyphrases}
    run[arguments.what](load(arguments.folder), arguments.model)


if __name__ == "__main__":
    main()
