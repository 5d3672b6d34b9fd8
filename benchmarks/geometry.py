"""What hubness, whitening and the mean of layers change, over plain dense search and over `fast`.

    python -m benchmarks.geometry FOLDER [FOLDER ...] [--model NAME] [--layers 1,-1]

A folder holds a judged set, as for `benchmarks.quality`. "asked" measures hubness by questions of the set: each half of
them is searched with the other half as the sample, so no question is in its own. Documents and queries that are read as
the mean of ``--layers`` are embedded anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.quality import CACHE, DEFAULT_MODEL, DOCUMENT_MEASURES, SPAN_MEASURES, load
from situate.chunkers import AutoChunker
from situate.embedders import Embedder
from situate.retrievers import Hit, Hubness, Index, PipelineConfig, Whitening
from situate.retrievers.evaluation import CachedEncoder, EvaluationSet, compare

#: Name -> fields of the configuration; None: hubness by asked questions.
WAYS: dict[str, dict[str, object] | None] = {
    "": {},
    "hubness, asked": None,
    "hubness, first words of chunks": {"hubness": Hubness()},
    "whitening": {"whitening": Whitening()},
    "all but the top": {"whitening": Whitening(remove=1)},
}


def searches(
    data: EvaluationSet, index: Index, preset: str, base: PipelineConfig
) -> dict[str, Callable[[str], Iterable[Hit]]]:
    """Searches of the index's collection, by the name of what is changed of a preset."""

    def search(**fields: object) -> Callable[[str], Iterable[Hit]]:
        other = Index(index.embedder, client=index.client, config=replace(base, **fields))  # type: ignore[arg-type]
        return lambda query: other.search(query, k=100)

    questions = list(data.queries.values())
    halves = [questions[0::2], questions[1::2]]
    asked = [search(hubness=Hubness(queries=tuple(half))) for half in halves]
    first = set(halves[0])
    made: dict[str, Callable[[str], Iterable[Hit]]] = {}
    for name, fields in WAYS.items():
        title = f"{preset}, {name}" if name else preset
        made[title] = search(**fields) if fields is not None else lambda query: asked[query in first](query)
    return made


def cached(embedder: Embedder) -> Embedder:
    """The embedder, with a cache on disk in front of its encoder."""
    return Embedder(embedder.model, family=embedder.family, encoder=CachedEncoder.of(embedder, CACHE))


def main() -> None:
    """Print a table per set and preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--layers", help="layers whose mean is pooled, over plain search: 1,-1")
    arguments = parser.parse_args()
    plain = Embedder(arguments.model)
    embedder = cached(plain)
    chunker = AutoChunker(size=200, tokenizer=plain.tokenizer)
    layers = [int(layer) for layer in arguments.layers.split(",")] if arguments.layers else None
    for folder in arguments.folders:
        data = load(folder)
        for preset in ("plain", "fast"):
            with ExitStack() as stack:
                base = getattr(PipelineConfig, preset)()
                documents = [document for document in data.documents if document.text.strip()]
                index = stack.enter_context(Index(embedder, chunker=chunker, config=base))
                index.add(documents)
                measures = SPAN_MEASURES if data.has_spans else DOCUMENT_MEASURES
                ways = searches(data, index, preset, base)
                if layers and preset == "plain":
                    of_layers = cached(Embedder(arguments.model, mean_layers=layers))
                    other = stack.enter_context(Index(of_layers, chunker=chunker, config=base))
                    other.add(documents)
                    white = Index(of_layers, client=other.client, config=replace(base, whitening=Whitening()))
                    named = f"plain, layers {arguments.layers}"
                    ways |= {named: partial(other.search, k=100), f"{named}, whitening": partial(white.search, k=100)}
                comparison = compare(data, ways, measures, count_tokens=chunker.count)
                print(f"\n{Path(arguments.model).name}\n{comparison.table(preset)}", flush=True)


if __name__ == "__main__":
    main()
