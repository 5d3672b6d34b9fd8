"""A process that writes to an index until it is killed, and prints the acknowledged operations.

Run as a program with the store's folder and a seed. Each line on standard output is an operation that was begun
("begin") or acknowledged ("done"); the parent reads them after the kill.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
import warnings
from collections.abc import Sequence

import numpy as np

from situate.chunkers import Document, TextChunker
from situate.embedders import Embedder
from situate.embedders.types import Encoded, SpanText, Vectors
from situate.retrievers import Index, LexicalScheme, PipelineConfig

IDS = [f"document {number}" for number in range(6)]


class HashEncoder:
    """A cheap encoder: the same text always gets the same direction. Only the store is under test here."""

    dimension = 8
    max_tokens = trained_tokens = 256

    def encode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        """One vector per span."""
        return [
            Encoded(np.stack([_vector(item.text[a:b]) for a, b in item.spans or ((0, len(item.text)),)]))
            for item in inputs
        ]

    async def aencode(self, inputs: Sequence[SpanText], *, token_vectors: bool = False) -> list[Encoded]:
        """`encode` in a thread."""
        return await asyncio.to_thread(self.encode, inputs, token_vectors=token_vectors)


def _vector(text: str) -> Vectors:
    digest = hashlib.sha256(text.encode()).digest()
    vector = np.frombuffer(digest[:8], dtype=np.uint8).astype(np.float32) - 127.5
    return vector / np.linalg.norm(vector)


def open_index(path: str) -> Index:
    """The index that both the writer and the check open."""
    return Index(
        Embedder(encoder=HashEncoder()),
        path=path,
        chunker=TextChunker(size=60),
        config=PipelineConfig(lexical=LexicalScheme()),
    )


def text_of(document_id: str, revision: int) -> str:
    """The words of a document's revision; several chunks, more or fewer each time."""
    return " ".join(f"{document_id} revision {revision} sentence {i}." for i in range(4 + revision % 9))


def main(path: str, seed: int) -> None:
    """Add, replace and delete for ever."""
    warnings.simplefilter("ignore")
    choice = random.Random(seed)
    with open_index(path) as index:
        index.count()
        print("open", flush=True)
        revision = seed * 1_000_000
        while True:
            revision += 1
            ids = choice.sample(IDS, choice.choice([1, 2, 3]))
            if choice.random() < 0.2:
                print("begin delete", "|".join(ids), flush=True)
                index.delete(ids)
                print("done delete", "|".join(ids), flush=True)
            else:
                print("begin", revision, "|".join(ids), flush=True)
                index.add([Document(name, text_of(name, revision)) for name in ids])
                print("done", revision, "|".join(ids), flush=True)
            if choice.random() < 0.005:
                index.client.optimize(index.collection)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
