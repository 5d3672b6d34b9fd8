"""Settings tried on questions: an index is asked once, and every setting is computed of what it answered."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from situate.embedders.types import Vectors
from situate.retrievers.config import PipelineConfig
from situate.retrievers.fit.corpus import Probe
from situate.retrievers.fit.questions import Question
from situate.retrievers.index.lexical import SparseVector
from situate.retrievers.search.gateway import Gateway, Query, Scores
from situate.retrievers.search.hybrid import HybridSearch
from situate.retrievers.search.query_vectors import QueryVectors
from situate.retrievers.types import Hit

if TYPE_CHECKING:
    from qdrant_client import models

#: Hits that are measured, and the characters that count as one rank: a chunk of 200 tokens has about so many.
K, READ = 10, 800
#: Searches that are timed by each of the settings.
_TIMED = 60


class RememberingGateway:
    """A `Gateway` that asks another one each thing once, for as many searches as want it.

    Args:
        gateway: The collection.
        limit: The nearest points that are asked for at once: the largest number that any search wants.
    """

    def __init__(self, gateway: Gateway, limit: int) -> None:
        self.gateway = gateway
        self.limit = limit
        self.client, self.collection, self.embedded = gateway.client, gateway.collection, gateway.embedded
        self.params, self.codes = gateway.params, gateway.codes
        self._found: dict[tuple[str, bytes], Scores] = {}
        self._maxsim: dict[tuple[str, bytes], Scores] = {}
        self._rows: dict[tuple[str, int], Vectors] = {}
        self._payloads: dict[int, Mapping[str, Any]] = {}

    def dense(self, query: Vectors, limit: int) -> dict[str, Any]:
        """As the gateway beneath."""
        return self.gateway.dense(query, limit)

    def nearest(self, queries: Mapping[str, Query], limit: int, where: models.Filter | None) -> dict[str, Scores]:
        """As the gateway beneath; without a filter each query is asked once."""
        if where is not None:
            return self.gateway.nearest(queries, limit, where)
        missing = {name: query for name, query in queries.items() if (name, _key(query)) not in self._found}
        if missing:
            found = self.gateway.nearest(missing, max(limit, self.limit), None)
            self._found |= {(name, _key(query)): found[name] for name, query in missing.items()}
        return {name: dict(islice(self._found[name, _key(query)].items(), limit)) for name, query in queries.items()}

    def nearest_with(
        self, queries: Mapping[str, Query], limit: int, where: models.Filter | None, key: str
    ) -> tuple[dict[str, Scores], dict[int, Any]]:
        """`nearest`, and the payload's value under ``key`` of each point that was found."""
        found = self.nearest(queries, limit, where)
        payloads = self.payloads(list({point for scores in found.values() for point in scores}))
        return found, {point: payload[key] for point, payload in payloads.items()}

    def payloads(self, points: Sequence[int]) -> Mapping[int, Mapping[str, Any]]:
        """As the gateway beneath, each point once."""
        if missing := [point for point in points if point not in self._payloads]:
            self._payloads |= self.gateway.payloads(missing)
        return {point: self._payloads[point] for point in points if point in self._payloads}

    def vectors(self, points: Sequence[int], name: str) -> dict[int, Vectors]:
        """As the gateway beneath, each point once, in the order of the points."""
        if missing := [point for point in points if (name, point) not in self._rows]:
            self._rows |= {(name, point): row for point, row in self.gateway.vectors(missing, name).items()}
        return {point: self._rows[name, point] for point in points if (name, point) in self._rows}

    def maxsim(self, tokens: Vectors, name: str, points: Sequence[int]) -> Scores:
        """As the gateway beneath, each pair once; best first."""
        known = self._maxsim.setdefault((name, tokens.tobytes()), {})
        if missing := [point for point in points if point not in known]:
            known |= self.gateway.maxsim(tokens, name, missing)
        found = {point: known[point] for point in points if point in known}
        return dict(sorted(found.items(), key=lambda each: -each[1]))

    def batch(self, requests: Sequence[models.QueryRequest]) -> list[list[models.ScoredPoint]]:
        """As the gateway beneath."""
        return self.gateway.batch(requests)

    def stored(self, matrix: Vectors) -> Any:
        """As the gateway beneath."""
        return self.gateway.stored(matrix)


def _key(query: Query) -> bytes:
    return query.indices.tobytes() + query.values.tobytes() if isinstance(query, SparseVector) else query.tobytes()


class Trials:
    """What settings find of the questions of a probe; each question is searched once by each of them.

    Args:
        probe: The index and its questions.
        limit: The largest number of candidates that is tried.
    """

    def __init__(self, probe: Probe, limit: int) -> None:
        self.probe = probe
        self.vectors = list(probe.vectors)
        self._gateway = RememberingGateway(probe.index.gateway, limit)
        # By the place in memory: signals in a configuration need not have a hash.
        self._known: dict[int, tuple[PipelineConfig, NDArray[np.float64]]] = {}

    def gains(self, config: PipelineConfig, numbers: Sequence[int] | None = None) -> NDArray[np.float64]:
        """float64 ``[questions]``: what each finds, as `gain` says.

        Args:
            config: The settings.
            numbers: Of the questions; None for all.
        """
        asked = range(len(self.probe.questions)) if numbers is None else numbers
        _, known = self._known.setdefault(id(config), (config, np.full(len(self.probe.questions), np.nan)))
        for number in asked:
            if math.isnan(known[number]):
                known[number] = gain(self.probe.questions[number], self.hits(config, number, K))
        return known[list(asked)]

    def hits(self, config: PipelineConfig, number: int, k: int) -> list[Hit]:
        """The best ``k`` hits of a question by these settings."""
        return HybridSearch(self._gateway, config, geometry=self.probe.index.geometry).search(self.vectors[number], k)

    @property
    def dense(self) -> Vectors:
        """float32 ``[questions, dimension]``: their dense vectors."""
        return np.array([each.dense for each in self.vectors])

    def with_dense(self, dense: Vectors) -> Trials:
        """The same questions with other dense vectors, float32 ``[questions, dimension]``."""
        other = Trials(self.probe, self._gateway.limit)
        other._gateway = self._gateway
        other.vectors = [replace(each, dense=row) for each, row in zip(self.vectors, dense, strict=True)]
        return other

    def milliseconds(self, configs: Sequence[tuple[PipelineConfig, Sequence[QueryVectors]]]) -> list[float]:
        """The median time of a search by each of the settings, in turn, by the index itself."""
        times: list[list[float]] = [[] for _ in configs]
        for number in range(min(_TIMED, len(self.vectors))):
            for place, (config, vectors) in enumerate(configs):
                search = HybridSearch(self.probe.index.gateway, config, geometry=self.probe.index.geometry)
                started = time.perf_counter()
                search.search(vectors[number], K)
                times[place].append(1e3 * (time.perf_counter() - started))
        return [float(np.median(each)) for each in times]


def gain(question: Question, hits: Sequence[Hit]) -> float:
    """What a ranking finds of what a question asks for, in [0, 1], discounted as in nDCG.

    Of passages the share of their characters that each hit adds counts, discounted by the characters that are read
    before it, so that chunks of different sizes can be compared; of whole documents their ranks count.
    """
    return _of_passages(question, hits) if question.spans else _of_documents(question, hits)


def _of_passages(question: Question, hits: Sequence[Hit]) -> float:
    wanted = {place for start, end in question.spans for place in range(start, end)}
    all_of_them, found, read = len(wanted), 0.0, 0
    for hit in hits:
        chunk = hit.chunk
        if chunk.document_id == question.document_id:
            new = wanted.intersection(range(chunk.start, chunk.end))
            found += len(new) / all_of_them / math.log2(2 + read / READ)
            wanted -= new
        read += len(chunk.text)
    return found


def _of_documents(question: Question, hits: Sequence[Hit]) -> float:
    wanted = {question.document_id, *question.others}
    ranked = dict.fromkeys(hit.chunk.document_id for hit in hits)
    found = sum(1 / math.log2(2 + place) for place, name in enumerate(ranked) if name in wanted)
    return found / sum(1 / math.log2(2 + place) for place in range(min(K, len(wanted))))
