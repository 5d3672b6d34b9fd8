"""Semantic cache: an answer is used again for a question that means the same, within a bound on the error.

A fixed similarity threshold is wrong for most entries: "capital of France" and "capital of Spain" are close, while two
wordings of a long question may be far apart. So each entry learns its own, as in VectorQ and vCache (Schroeder et al.
2025): now and then the answer is computed although an entry is near, and the comparison teaches the entry its range.
"""

from __future__ import annotations

import asyncio
import copy
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from situate.embedders.types import Vectors
from situate.errors import IncompatibleIndexError, InputError
from situate.outside import safe_message
from situate.parameters import checked_parameters
from situate.retrievers.cache_codecs import Codec
from situate.retrievers.cache_entries import Computation, Near, expected_error
from situate.retrievers.pipeline.steps import StepPolicy, StepRunner, Trace, note
from situate.retrievers.types import Step
from situate.threads import renew_after_fork
from situate.types import stable_id

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

T = TypeVar("T")

#: Longer queries are not cached: they hardly repeat.
_LONGEST_QUERY = 10_000
#: Comparisons of each kind that an entry keeps.
_REMEMBERED = 200
#: Questions that were looked up and whose answers are awaited, at most.
_PENDING = 1_000
#: What a copy has of its own.
_OWN = ("_lock", "_computing", "_pending", "_opened")


class QueryEmbedder(Protocol):
    """The part of an `Embedder` that the cache uses."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What decides a vector."""
        ...

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """float32 ``[texts, dimension]``."""
        ...

    async def aembed_queries(self, texts: Sequence[str]) -> Vectors:
        """`embed_queries` without blocking the event loop."""
        ...


@dataclass(frozen=True)
class Fetched(Generic[T]):
    """An answer and where it came from.

    Attributes:
        value: The answer.
        hit: Whether it came out of the cache.
        similarity: Cosine to the nearest entry's question; None where no entry was searched for or found.
        steps: The cache's own steps, degraded ones with their error.
    """

    value: T
    hit: bool
    similarity: float | None = None
    steps: tuple[Step, ...] = ()


@checked_parameters
class SemanticCache(Generic[T]):
    """Answers by meaning, in a Qdrant collection.

    The chance that a hit is wrong is at most ``max_error``: let an entry have been right in ``c`` comparisons at this
    similarity or less and wrong in ``w`` at this similarity or more. The expected chance that it is wrong now is
    ``(w + 1) / (c + w + 2)`` (Laplace's rule, from a uniform prior), and it is used with the probability
    ``max_error`` divided by that; else the answer is computed, and compared. An entry's own question is always a hit.

    If the cache itself fails, the answer is computed, and the failure is marked on ``steps``. If an answer's documents
    are invalidated (through this object) while it is computed, it is returned and not stored. An entry that the codec
    cannot read, of another version for instance, is computed anew and replaced.

    Cheap to construct. A copy shares the client; the cache pickles where ``client`` is a function.

    Args:
        client: Any Qdrant client, or a function that opens one, which is called at first use.
        embedder: Embeds questions as queries.
        codec: The stored form of an answer, and the test of two for equality: `TEXT`, `RESULTS` or one's own.
        collection: The collection's name; made when first used.
        max_error: Bound on the share of hits that give a wrong answer, in (0, 1).
        ttl: Seconds that an entry is used for; None for ever.
        nearest: An entry farther away than this cosine is not considered at all.
        policy: Timeouts and retries of the cache's own steps; None for 30 s and no retry.
        seed: Of the decisions; None for chance.
        clock: Seconds since the epoch.

    Raises:
        InputError: An argument is outside its range.
    """

    def __init__(
        self,
        client: QdrantClient | Callable[[], QdrantClient],
        embedder: QueryEmbedder,
        codec: Codec[T],
        *,
        collection: str = "situate_cache",
        max_error: float = 0.05,
        ttl: float | None = None,
        nearest: float = 0.7,
        policy: StepPolicy | None = None,
        seed: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 < max_error < 1:
            raise InputError(f"max_error={max_error} must lie between 0 and 1")
        if ttl is not None and not ttl > 0:
            raise InputError(f"ttl={ttl} seconds must be more than 0, or None for ever")
        if not -1 <= nearest <= 1:
            raise InputError(f"nearest={nearest} is a cosine: it must lie between -1 and 1")
        self._client = client
        self._opened: QdrantClient | None = None
        self.embedder = embedder
        self.codec = codec
        self.collection = collection
        self.max_error = max_error
        self.ttl = ttl
        self.nearest = nearest
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311  decides how often to learn, protects nothing
        self._runner = StepRunner(policy or StepPolicy(retries=0))
        self._model: str | None = None
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget running computations, which a forked child does not have, and the lock that they may hold."""
        self._computing: set[Computation] = set()
        self._pending: OrderedDict[tuple[str, str], tuple[Near, Computation]] = OrderedDict()
        self._lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> SemanticCache[T]:
        again: SemanticCache[T] = copy.copy(self)
        again.embedder = copy.deepcopy(self.embedder, memo)
        return again

    def __copy__(self) -> SemanticCache[T]:
        again = object.__new__(type(self))
        again.__setstate__({**self.__dict__, "_random": copy.deepcopy(self._random)})
        return again

    def __getstate__(self) -> dict[str, Any]:
        if not callable(self._client):
            raise InputError(
                "a SemanticCache on an open client cannot be pickled: give it a function that opens the client, and it "
                "pickles as that"
            )
        return {name: value for name, value in self.__dict__.items() if name not in _OWN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opened=None, _model=None)
        self.renew()
        renew_after_fork(self)

    @property
    def client(self) -> QdrantClient:
        """The client, opened at first use."""
        with self._lock:
            if callable(self._client):
                self._opened = self._opened or self._client()
                return self._opened
            return self._client

    def fetch(
        self, query: str, compute: Callable[[], T], *, tenant: str = "", document_ids: Sequence[str] = ()
    ) -> Fetched[T]:
        """The answer to ``query``: the cache's, or what ``compute`` returns, which is then stored
        (unless the nearest entry has the same answer).

        Args:
            query: The question.
            compute: Computes the answer. Its errors pass unchanged.
            tenant: Entries of one tenant are never seen by another.
            document_ids: Documents that the answer rests on, beside those that the codec finds in it.
        """
        if not _cacheable(query):
            return Fetched(compute(), False)
        trace = self._runner.trace()
        near = trace.run("cache:get", partial(self._look, query, tenant), Near())
        if near.usable:
            return Fetched(near.value, True, near.similarity, trace.steps)
        with self._computation(tenant) as computation:
            value = compute()
            learn = partial(self._learn, query, value, near, computation, document_ids)
            trace.run("cache:put", learn, None)
        return Fetched(value, False, near.similarity, trace.steps)

    async def afetch(
        self, query: str, compute: Callable[[], Awaitable[T]], *, tenant: str = "", document_ids: Sequence[str] = ()
    ) -> Fetched[T]:
        """`fetch` without blocking the event loop; cancelling it cancels the computation."""
        if not _cacheable(query):
            return Fetched(await compute(), False)
        trace = self._runner.trace()
        near = await trace.arun("cache:get", partial(self._alook, query, tenant), Near())
        if near.usable:
            return Fetched(near.value, True, near.similarity, trace.steps)
        with self._computation(tenant) as computation:
            value = await compute()
            learn = partial(self._learn, query, value, near, computation, document_ids)
            await trace.arun("cache:put", lambda: asyncio.to_thread(learn), None)
        return Fetched(value, False, near.similarity, trace.steps)

    def lookup(self, query: str, *, tenant: str = "") -> Fetched[T] | None:
        """The answer that the cache has, for a caller that computes and stores it itself; None where there is none.

        `fetch` in two halves: after a None, `store` the answer, from which the nearest entry learns. An answer whose
        documents are invalidated between the two is not stored.

        Args:
            query: The question.
            tenant: As in `fetch`.
        """
        if not _cacheable(query):
            return None
        trace = self._runner.trace()
        near = trace.run("cache:get", partial(self._look, query, tenant), Near())
        return self._looked_up(query, tenant, near, trace)

    async def alookup(self, query: str, *, tenant: str = "") -> Fetched[T] | None:
        """`lookup` without blocking the event loop."""
        if not _cacheable(query):
            return None
        trace = self._runner.trace()
        near = await trace.arun("cache:get", partial(self._alook, query, tenant), Near())
        return self._looked_up(query, tenant, near, trace)

    def store(self, query: str, value: T, *, tenant: str = "", document_ids: Sequence[str] = ()) -> tuple[Step, ...]:
        """Store the answer to a question that was looked up; see `lookup` and `fetch`.

        Returns:
            The cache's own step, with its error where it failed; () where the question is not cached at all.
        """
        if not _cacheable(query):
            return ()
        trace = self._runner.trace()
        trace.run("cache:put", lambda: self._learn_of(query, value, tenant, document_ids), None)
        return trace.steps

    async def astore(
        self, query: str, value: T, *, tenant: str = "", document_ids: Sequence[str] = ()
    ) -> tuple[Step, ...]:
        """`store` without blocking the event loop."""
        if not _cacheable(query):
            return ()
        trace = self._runner.trace()
        work = partial(self._learn_of, query, value, tenant, document_ids)
        await trace.arun("cache:put", lambda: asyncio.to_thread(work), None)
        return trace.steps

    def close(self) -> None:
        """Close the client that the cache opened itself, until the next call. A client that was given stays open."""
        with self._lock:
            opened, self._opened, self._model = self._opened, None, None
        if opened is not None:
            opened.close()

    def _looked_up(self, query: str, tenant: str, near: Near, trace: Trace) -> Fetched[T] | None:
        if near.usable:
            return Fetched(near.value, True, near.similarity, trace.steps)
        computation = Computation(tenant)
        with self._lock:
            _, before = self._pending.pop((tenant, query), (None, None))
            self._pending[tenant, query] = near, computation
            if len(self._pending) > _PENDING:  # callers that stored nothing
                _, (_, before) = self._pending.popitem(last=False)
            self._computing.discard(before)
            self._computing.add(computation)
        return None

    def _learn_of(self, query: str, value: T, tenant: str, document_ids: Sequence[str]) -> None:
        with self._lock:
            near, computation = self._pending.pop((tenant, query), (None, Computation(tenant)))
        try:
            if near is None:  # never looked up, or long ago
                near, _ = self._nearest(self._vector(query), tenant)
            self._learn(query, value, near, computation, document_ids)
        finally:
            with self._lock:
                self._computing.discard(computation)

    def invalidate(self, document_ids: Sequence[str], *, tenant: str | None = None) -> None:
        """Forget the answers that rest on these documents, those being computed included; call it when they change.

        Args:
            document_ids: The documents.
            tenant: Only that tenant's answers; None for those of all tenants.
        """
        if document_ids:
            self._delete(document_ids=list(document_ids), tenant=tenant)

    def clear(self, *, tenant: str | None = None) -> None:
        """Forget everything, or everything of one tenant; for new documents, which no old answer covers."""
        self._delete(tenant=tenant)

    def purge(self) -> None:
        """Delete expired entries. They are not used any more in any case; this frees their space."""
        self._delete(expired=True)

    def count(self) -> int:
        """How many entries there are, expired ones included."""
        self._ready()
        return int(self.client.count(self.collection, exact=True).count)

    def _look(self, query: str, tenant: str) -> Near:
        return self._same_words(query, tenant) or self._judged(self._nearest(self._vector(query), tenant))

    async def _alook(self, query: str, tenant: str) -> Near:
        same = await asyncio.to_thread(self._same_words, query, tenant)
        if same is not None:
            return same
        vector = (await self.embedder.aembed_queries([query]))[0].tolist()
        return self._judged(await asyncio.to_thread(self._nearest, vector, tenant))

    def _vector(self, query: str) -> list[float]:
        vector: list[float] = self.embedder.embed_queries([query])[0].tolist()
        return vector

    def _same_words(self, query: str, tenant: str) -> Near | None:
        model = self._ready()
        for record in self.client.retrieve(self.collection, [_entry_id(query, tenant, model)], with_payload=True):
            payload = record.payload or {}
            if payload.get("expires", 0.0) > self._clock():
                near = self._read(str(record.id), payload, Near(similarity=1.0))
                if near.entry is None:
                    return None
                note(hit=True, similarity=1.0)
                return replace(near, usable=True)
        return None

    def _nearest(self, vector: list[float], tenant: str) -> tuple[Near, Mapping[str, Any]]:
        from qdrant_client import models

        points = self.client.query_points(
            self.collection,
            query=vector,
            query_filter=models.Filter(
                must=[
                    models.FieldCondition(key="tenant", match=models.MatchValue(value=tenant)),
                    models.FieldCondition(key="model", match=models.MatchValue(value=self._ready())),
                    models.FieldCondition(key="expires", range=models.Range(gt=self._clock())),
                ]
            ),
            limit=1,
            score_threshold=self.nearest,
            with_payload=True,
        ).points
        if not points:
            return Near(vector=tuple(vector)), {}
        point = points[0]
        payload = point.payload or {}
        return self._read(str(point.id), payload, Near(similarity=float(point.score), vector=tuple(vector))), payload

    def _read(self, entry: str, payload: Mapping[str, Any], near: Near) -> Near:
        """``near`` with the entry's answer; without an entry where the answer cannot be read, and is then replaced."""
        try:
            [float(score) for kind in ("right", "wrong") for score in payload[kind]]
            return replace(near, value=self.codec.decode(payload["value"]), entry=entry)
        except Exception as error:  # noqa: BLE001 - whatever a codec dies of, the answer is computed anew
            note(unreadable=safe_message(error))
            return replace(near, similarity=None, unreadable=entry)

    def _judged(self, found: tuple[Near, Mapping[str, Any]]) -> Near:
        near, payload = found
        if near.similarity is None:
            note(hit=False)
            return near
        error = expected_error(payload["right"], payload["wrong"], near.similarity)
        usable = self._random.random() < self.max_error / error
        note(hit=usable, similarity=near.similarity, expected_error=error)
        return replace(near, usable=usable)

    @contextmanager
    def _computation(self, tenant: str) -> Iterator[Computation]:
        """An answer that is computed in the block, visible to `invalidate` and `clear`."""
        computation = Computation(tenant)
        with self._lock:
            self._computing.add(computation)
        try:
            yield computation
        finally:
            with self._lock:
                self._computing.discard(computation)
                # A step that timed out goes on: what it stored from here on, no invalidation would see.
                computation.forgotten.append(None)

    def _learn(self, query: str, value: T, near: Near, computation: Computation, document_ids: Sequence[str]) -> None:
        """Record with the nearest entry whether it would have been right, and store the answer."""
        from qdrant_client import models

        encoded = self.codec.encode(value)
        model, tenant = self._ready(), computation.tenant
        documents = sorted({*document_ids, *self.codec.document_ids(value)})
        if near.unreadable is not None:
            self.client.delete(self.collection, [near.unreadable], wait=True)
        if near.entry is not None and near.similarity is not None:
            right = self.codec.same(near.value, value)
            kind = "right" if right else "wrong"
            with self._lock:
                for record in self.client.retrieve(self.collection, [near.entry], with_payload=True):
                    seen = [*(record.payload or {})[kind], near.similarity][-_REMEMBERED:]
                    self.client.set_payload(self.collection, {kind: seen}, points=[near.entry], wait=True)
            note(right=right)
            if right:  # a second entry of the same answer would have to learn its range anew
                return
        vector = list(near.vector) or self._vector(query)
        payload = {
            "query": query,
            "value": encoded,
            "tenant": tenant,
            "model": model,
            "document_ids": documents,
            # far beyond any clock, so that one condition serves entries with and without an end
            "expires": 1e18 if self.ttl is None else self._clock() + self.ttl,
            "right": [],
            "wrong": [],
        }
        point = models.PointStruct(id=_entry_id(query, tenant, model), vector=vector, payload=payload)
        with self._lock:  # an invalidation comes before this and is seen, or after it and deletes the entry
            if computation.outdated(documents):
                note(outdated=True)
                return
            self.client.upsert(self.collection, [point], wait=True)

    def _delete(
        self, *, document_ids: list[str] | None = None, tenant: str | None = None, expired: bool = False
    ) -> None:
        from qdrant_client import models

        self._ready()
        must: list[models.Condition] = []
        if document_ids is not None:
            must.append(models.FieldCondition(key="document_ids", match=models.MatchAny(any=document_ids)))
        if tenant is not None:
            must.append(models.FieldCondition(key="tenant", match=models.MatchValue(value=tenant)))
        if expired:
            must.append(models.FieldCondition(key="expires", range=models.Range(lte=self._clock())))
        forgotten = None if document_ids is None else frozenset(document_ids)
        with self._lock:
            for computation in () if expired else self._computing:
                if tenant is None or tenant == computation.tenant:
                    computation.forgotten.append(forgotten)
            self.client.delete(self.collection, models.FilterSelector(filter=models.Filter(must=must)), wait=True)

    def _ready(self) -> str:
        """Make the collection if it is missing; the embedder's fingerprint.

        Raises:
            IncompatibleIndexError: The collection holds vectors of another length.
        """
        with self._lock:
            if self._model is not None:
                return self._model
            from qdrant_client import models

            from situate.embedders.embedder import Embedder

            size = self.embedder.dimension
            if self.client.collection_exists(self.collection):
                found = self.client.get_collection(self.collection).config.params.vectors
                if not isinstance(found, models.VectorParams) or found.size != size:
                    raise IncompatibleIndexError(
                        f"the cache's collection {self.collection!r} was not made for vectors of {size} numbers: "
                        "give this embedder a collection of its own, or delete the old one"
                    )
            else:
                self.client.create_collection(
                    self.collection, vectors_config=models.VectorParams(size=size, distance=models.Distance.COSINE)
                )
                for key in ("tenant", "model", "document_ids"):
                    self.client.create_payload_index(self.collection, key, models.PayloadSchemaType.KEYWORD)
                self.client.create_payload_index(self.collection, "expires", models.PayloadSchemaType.FLOAT)
            embedder = self.embedder
            if isinstance(embedder, Embedder):
                # By default queries are cut, as before documents were read in windows, and no neighbours are mixed into
                # them: older entries stay valid.
                embedder = embedder.agreeing_with({"on_overflow": "cut", "scheme": {}})
            fingerprint = embedder.fingerprint
            self._model = stable_id(*(f"{key}={fingerprint[key]!r}" for key in sorted(fingerprint)))
            return self._model


def _cacheable(query: str) -> bool:
    return bool(query.strip()) and len(query) <= _LONGEST_QUERY


def _entry_id(query: str, tenant: str, model: str) -> str:
    return stable_id("cache", tenant, model, " ".join(query.split()))
