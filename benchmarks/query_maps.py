"""Ways to make a linear map of queries, forced on the search and judged by the sets' own questions.

    python -m benchmarks.query_maps FOLDER [FOLDER ...] [--model MODEL]

Each map is made of what the corpus asks about itself (`situate.retrievers.fit`), as `fit` makes its own, and used
whether it helps there or not: "listwise" is fit's, distilled from the order of the search with feedback; "regression"
is the closed form that moves a query towards the mean of that search's best hits (ridge); "corpus" moves it along the
directions in which passages differ most (the covariance of their vectors), which is feedback by all of them at once.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.fit import DOCUMENTS, SPANS
from benchmarks.quality import CACHE, DEFAULT_MODEL, load
from situate.chunkers import AutoChunker
from situate.embedders import Embedder
from situate.embedders.models.query_map import QueryMap
from situate.embedders.types import Vectors
from situate.retrievers import Hit, Index
from situate.retrievers.config import Feedback
from situate.retrievers.evaluation import CachedEncoder, compare
from situate.retrievers.fit.adapter import fitted_map, lists
from situate.retrievers.fit.corpus import Probe, corpus_probe
from situate.retrievers.fit.split import held_back
from situate.retrievers.fit.trials import Trials

#: Hits that teach, and those of them that a regression's mean is of; ridge; rank of the closed forms.
_TAUGHT, _BEST, _RIDGE, _RANK = 50, 5, 10.0, 32


def main() -> None:
    """Print a table per set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where encoded texts are kept")
    arguments = parser.parse_args()
    plain = Embedder(arguments.model)
    embedder = Embedder(arguments.model, family=plain.family, encoder=CachedEncoder.of(plain, arguments.cache))
    for folder in arguments.folders:
        data = load(folder)
        with (
            Index(embedder, chunker=AutoChunker(size=200, tokenizer=plain.tokenizer)) as index,
            tempfile.TemporaryDirectory() as work,
        ):
            index.add(document for document in data.documents if document.text.strip())
            with corpus_probe(index, number=800, chunks=3000, seed=0) as probe:
                made = maps(probe)
            searches = {"no map": _search(index)}
            for name, moved in made.items():
                file = moved.save(Path(work) / f"{name}.safetensors")
                adapted = embedder.using(embedder.adapter, str(file))
                searches[name] = _search(Index(adapted, client=index.client, config=index.config))
            comparison = compare(data, searches, [SPANS if data.has_spans else DOCUMENTS])
        print(f"{Path(arguments.model).name}\n{comparison.table('no map')}\n", flush=True)


def maps(probe: Probe) -> dict[str, QueryMap]:
    """Each way's map, at half and at full strength."""
    trials = Trials(probe, 100)
    numbers = np.flatnonzero(~held_back(probe.questions, 0)).tolist()
    taught = replace(probe.index.config, feedback=Feedback(3, 0.6))
    found = [trials.hits(taught, number, _TAUGHT) for number in numbers]
    data = lists(probe.index, trials.dense[numbers], found)
    whole = {"regression": _factors(_regression(data.queries, data.passages[:, :_BEST].mean(1)))}
    passages = data.passages[data.kept]
    centred = passages - passages.mean(0)
    covariance = centred.T @ centred
    whole["corpus"] = _factors(covariance / np.linalg.eigvalsh(covariance)[-1])
    if (listwise := fitted_map(data)) is not None:
        whole["listwise"] = listwise.down, listwise.up
    basis = QueryMap.basis(probe.index.embedder.querier.fingerprint)
    return {
        f"{name}, {share:g} of it": QueryMap(down, (share * up).astype(np.float32), basis)
        for name, (down, up) in whole.items()
        for share in (0.25, 0.5, 1.0)
    }


def _regression(queries: Vectors, wanted: Vectors) -> Vectors:
    """What is added to queries, so that they come near what is wanted: ``[dimension, dimension]``."""
    own = queries.T @ queries + _RIDGE * np.eye(queries.shape[1])
    solved: Vectors = np.linalg.solve(own, queries.T @ (wanted - queries))
    return solved


def _factors(matrix: Vectors) -> tuple[Vectors, Vectors]:
    """The nearest product of two matrices of `_RANK`."""
    left, values, right = np.linalg.svd(matrix)
    return (left[:, :_RANK] * values[:_RANK]).astype(np.float32), right[:_RANK].astype(np.float32)


def _search(index: Index) -> Callable[[str], list[Hit]]:
    return lambda query: list(index.search(query, k=100).hits)


if __name__ == "__main__":
    main()
