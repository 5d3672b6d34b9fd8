"""What headings in front of the dense text change on the examples' handbook, by preset and with parts left out.

    python -m benchmarks.handbook

The handbook was written for the demo, with generic headings and pronouns as real handbooks have them: an illustration.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.quality import CACHE
from examples.asking import load_questions
from situate.chunkers import read_documents
from situate.embedders import ChunkScheme, Embedder
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.evaluation import CachedEncoder, Comparison

EXAMPLES = Path(__file__).parent.parent / "examples"


def main() -> None:
    """Index the handbook in each configuration, ask its questions, print the table."""
    plain = Embedder()
    embedder = Embedder(encoder=CachedEncoder.of(plain, CACHE))
    documents = list(read_documents(EXAMPLES / "documents"))
    questions = [question for question in load_questions(EXAMPLES / "questions.json") if question.document]
    names = ("plain", "fast", "quality")
    presets: dict[str, PipelineConfig] = {name: getattr(PipelineConfig, name)() for name in names}
    presets["fast, DBSF"] = replace(presets["fast"], fusion="dbsf")
    lexical = presets["fast"].lexical
    assert lexical is not None
    presets["fast - BM25 neighbours"] = replace(presets["fast"], lexical=replace(lexical, neighbours=0.0))
    presets["late chunking"] = PipelineConfig(dense=ChunkScheme(late=True), lexical=None)
    presets["quality - MaxSim"] = replace(presets["quality"], token_vectors=None)
    presets["quality - late chunking"] = replace(presets["quality"], dense=presets["fast"].dense)
    for name, preset in presets.items():
        ranks: dict[str, dict[str, np.ndarray]] = {}
        for added, pooled in (("", False), (" + headings", False), (" + headings, pooled", True)):
            dense = replace(preset.dense, context=("headings",) if added else (), pool_context=pooled)
            with Index(embedder, chunker=Index(plain).chunker, config=replace(preset, dense=dense)) as index:
                index.add(documents)
                found = [index.search(question.text, k=50) for question in questions]
            places = [
                next((place for place, hit in enumerate(hits, 1) if question.is_answered_by(hit.chunk)), None)
                for question, hits in zip(questions, found, strict=True)
            ]
            first = np.array([float(place == 1) for place in places])
            ranks[name + added] = {"first": first, "RR": np.array([1 / place if place else 0.0 for place in places])}
        print(Comparison("handbook", ranks).table(name))


if __name__ == "__main__":
    main()
