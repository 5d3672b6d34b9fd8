"""The Qdrant collection under an index: made, checked against the encoder, repaired after a crash, written to."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.embedders.fingerprints import differences
from situate.errors import FallbackWarning, IncompatibleIndexError
from situate.retrievers.config import PipelineConfig
from situate.retrievers.index.compression import Compression, kind_of
from situate.retrievers.index.lexical import SparseVector
from situate.retrievers.index.payload import CODES, DENSE, INDEXED_KEYS, STATE, WRITING, point_id, to_payload
from situate.retrievers.index.projection import codes_of
from situate.retrievers.search.gateway import plain
from situate.types import Chunk
from situate.vectors import check_finite

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.embedders.types import Vectors
    from situate.retrievers.search.gateway import Gateway
    from situate.retrievers.signals.base import Value

#: The key of a collection's metadata that holds its fingerprint.
_METADATA_KEY = "situate"
#: Not compared: what makes codes of dense vectors, fitted on the collection's own.
_PROJECTION_KEY = "situate_projection"
#: Not compared: the fingerprint has its digest.
_SAMPLE_KEY = "situate_sample"
#: The key of the signals that are being filled in, and the last document that has them.
_FILLING_KEY = "situate_filling"
#: Not compared: a key for each reading of the documents (`situate.retrievers.index.languages`).
_LANGUAGE_KEY = "situate_language_"
#: On a server another writer may add languages: they are read again after so many seconds.
LANGUAGES_SECONDS = 60.0
#: Points in one upsert, and in one page of a scroll.
BATCH_POINTS = 256
#: On a server another writer may be at work: only versions in writing for this long count as abandoned.
ABANDONED_SECONDS = 3600.0
#: The server's status where a collection to be made exists already.
_CONFLICT = 409


@dataclass(frozen=True)
class Version:
    """One version of a document, ready to be written.

    Attributes:
        document_id: The document.
        document_hash: Identifies the version.
        chunks: Its chunks, in order.
        vectors: By a vector's name, its value for each chunk; None, or a multivector without rows, for none.

    Raises:
        NonFiniteVectorError: A vector holds NaN or infinity; the message names the chunk.
    """

    document_id: str
    document_hash: str
    chunks: Sequence[Chunk]
    vectors: Mapping[str, Sequence[Value | None] | Vectors]

    def __post_init__(self) -> None:
        for place, chunk in enumerate(self.chunks):
            got = f"no chunk of its batch was stored: chunk {chunk.index} of {self.document_id!r} got a vector with"
            for values in self.vectors.values():
                value = values[place]
                if value is not None:
                    check_finite(value.values if isinstance(value, SparseVector) else value, got)

    def of_chunk(self, place: int, gateway: Gateway) -> dict[str, Any]:
        """The named vectors of the chunk at this place, as the store takes them."""
        named: dict[str, Any] = {}
        for name, values in self.vectors.items():
            value = values[place]
            if isinstance(value, SparseVector) or (value is not None and value.ndim == 1):
                named[name] = plain(value)
            elif value is not None and len(value):
                named[name] = gateway.stored(value)
        return named


def in_documents(document_ids: Sequence[str]) -> models.Filter:
    """All points of these documents."""
    from qdrant_client import models

    return models.Filter(must=[models.FieldCondition(key="document_id", match=models.MatchAny(any=list(document_ids)))])


def _first_chunks(document_ids: Sequence[str]) -> models.Filter:
    """The first point of every version of these documents."""
    from qdrant_client import models

    first = models.FieldCondition(key="index", range=models.Range(gte=0, lte=0))
    return models.Filter(must=[in_documents(document_ids), first])


class Collection:
    """One Qdrant collection holding chunks.

    Args:
        gateway: The gateway to it.

    Attributes:
        absent: Names of signals that the configuration has and the collection not: nothing is written for them.
        incomplete: Those, and the ones that some of its documents lack: searches leave them out.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.absent: frozenset[str] = frozenset()
        self.incomplete: frozenset[str] = frozenset()
        self.client = gateway.client
        self.name = gateway.collection
        # An embedded store belongs to this process alone: versions that are half written at opening were abandoned.
        self._abandoned_after = 0.0 if gateway.embedded else ABANDONED_SECONDS
        self._compression: Compression | None = None
        self._projecting = threading.Lock()
        self._languages: frozenset[str] | None = None
        self._languages_read = 0.0

    def open(
        self,
        fingerprint: Mapping[str, Any],
        dimension: int,
        config: PipelineConfig,
        sample: Sequence[str] | None = None,
    ) -> PipelineConfig:
        """Make the collection, or check that it was built with this encoder and configuration; then repair it.

        Args:
            fingerprint: What decides a document's vector.
            dimension: Length of a vector.
            config: What is stored.
            sample: Passages that the encoder reads before anything else; a new collection keeps them.

        A collection that only lacks further signals is opened without them: see `absent`.

        Returns:
            The configuration, with BM25's terms made as the collection's are, and its compression where it names none.

        Raises:
            IncompatibleIndexError: It was built with another encoder or configuration, or not by situate.
        """
        from qdrant_client.http.exceptions import UnexpectedResponse

        built_with = _fingerprint(fingerprint, config)
        if not self.client.collection_exists(self.name):
            try:
                self._create(dimension, config, built_with, sample)
            except UnexpectedResponse as error:
                # Another writer made it in the meantime, or this client did and the answer was lost.
                if error.status_code != _CONFLICT:
                    raise
            else:
                self.gateway.params = None if config.compressed is None else config.compressed.search()
                self._compression = config.compressed
                return config
        before = self._metadata().get(_METADATA_KEY)
        if before is None:
            raise IncompatibleIndexError(
                f"collection {self.name!r} was not made by situate's Index: choose another collection name, or use "
                "the framework's own Qdrant store for it"
            )
        if (agreeing := config.agreeing_with(before.get("stored") or {})) is not config:
            config = agreeing
            built_with = _fingerprint(fingerprint, config)
        kept = (before.get("stored") or {}).get("compression")
        if config.compression is None and kept is not None:
            config = replace(config, compression=kept)
            built_with = _fingerprint(fingerprint, config)
        if kept != built_with["stored"].get("compression"):
            raise IncompatibleIndexError(
                f"collection {self.name!r} was made with compression={kept!r}, not with {config.compression!r}: "
                "whether dense vectors have codes of their own ('binary', 'pca:...') is decided when a collection is "
                "made. Open it without compression, which keeps what it has, or index into a new collection"
            )
        stored = (before.get("stored") or {}).get("signals") or {}
        absent = frozenset(signal.name for signal in config.signals) - stored.keys()
        if before != (_fingerprint(fingerprint, config.without(absent)) if absent else built_with):
            raise IncompatibleIndexError(
                f"collection {self.name!r} was built with {differences(before, built_with)}: vectors of different "
                "encoders cannot be compared. Use the encoder and configuration that it was built with, or index the "
                "documents into a new collection"
            )
        config = self._compressed(config.without(absent), config)
        self._repair()
        self.absent = absent
        self.incomplete = absent | set(self._filling()["names"])
        return config

    def encoder(self) -> Mapping[str, Any]:
        """The fingerprint of the encoder that the collection was built with; {} where another library made it."""
        return (self._metadata().get(_METADATA_KEY) or {}).get("encoder") or {}

    def sample(self) -> tuple[str, ...] | None:
        """The sample that an existing collection keeps for its encoder to read before anything else."""
        kept = self._metadata().get(_SAMPLE_KEY) if self.client.collection_exists(self.name) else None
        return None if kept is None else tuple(kept)

    def languages(self) -> frozenset[str]:
        """The readings of the documents, as `LexicalEncoder.language_of` names them; of deleted ones, too."""
        stale = not self.gateway.embedded and time.monotonic() - self._languages_read > LANGUAGES_SECONDS
        if self._languages is None or stale:
            keys = [key for key in self._metadata() if key.startswith(_LANGUAGE_KEY)]
            found = frozenset(key.removeprefix(_LANGUAGE_KEY) for key in keys)
            # One that could not be stored stays known here.
            self._languages = found | (self._languages or frozenset())
            self._languages_read = time.monotonic()
        return self._languages

    def add_languages(self, languages: Iterable[str]) -> None:
        """Keep the readings of documents that are about to be written."""
        if new := set(languages) - self.languages():
            try:
                # A key each: Qdrant merges metadata, so writers at the same time lose no language.
                self.client.update_collection(self.name, metadata={_LANGUAGE_KEY + name: True for name in new})
            except Exception as error:  # of REST, of gRPC or of a tenant's client
                if not _forbidden(error):
                    raise
                warnings.warn(
                    f"this client may not change the metadata of collection {self.name!r}, which keep the languages of "
                    f"its documents ({', '.join(sorted(new))}), so that other processes do not know them: name them, "
                    "LexicalScheme(language=(...)), for a new collection, or write with a key that may",
                    FallbackWarning,
                    stacklevel=2,
                )
            self._languages = self.languages() | new

    def _metadata(self) -> Mapping[str, Any]:
        return self.client.get_collection(self.name).config.metadata or {}

    # -- signals that are added later ---------------------------------------------------------------------------

    def begin_filling(self, fingerprint: Mapping[str, Any], dimension: int, config: PipelineConfig) -> str:
        """Make the named vectors of `absent` signals; from now on they are written with every document.

        Args:
            fingerprint: As in `open`.
            dimension: As in `open`.
            config: As in `open`.

        Returns:
            The last document that has all of them already; "" for none.
        """
        from qdrant_client import models

        if self.absent:
            described = self.client.get_collection(self.name).config.params
            known = {*(described.vectors or {}), *(described.sparse_vectors or {})}
            for signal in config.signals:
                if signal.name not in self.absent:
                    continue
                if signal.name in known:  # a crash left it there before anything was written
                    self.client.delete_vector_name(self.name, signal.name)
                params = signal.params(dimension, _distance(fingerprint))
                made: models.VectorNameConfig
                if isinstance(params, models.VectorParams):
                    fields = {"size", "distance", "multivector_config", "datatype"}
                    dense = models.DenseVectorConfig(**params.model_dump(include=fields))
                    made = models.DenseVectorNameConfig(dense=dense)
                else:
                    made = models.SparseVectorNameConfig(sparse=models.SparseVectorConfig(modifier=params.modifier))
                self.client.create_vector_name(self.name, signal.name, made)
            self._compressed(config, config)
            self._set_metadata(
                {_METADATA_KEY: _fingerprint(fingerprint, config), **_filling_entry(self.incomplete, "")}
            )
            self.absent = frozenset()
        after: str = self._filling()["after"]
        return after

    def filled_until(self, document_id: str) -> None:
        """Note that this document and all before it have the incomplete signals: a later call goes on behind it."""
        self._set_metadata(_filling_entry(self.incomplete, document_id))

    def end_filling(self) -> None:
        """Every document has the signals: searches use them."""
        self._set_metadata(_filling_entry((), ""))
        self.incomplete = frozenset()

    def _filling(self) -> Mapping[str, Any]:
        return self._metadata().get(_FILLING_KEY) or {"names": [], "after": ""}

    def _set_metadata(self, metadata: dict[str, Any]) -> None:
        self.client.update_collection(self.name, metadata=metadata)

    def _create(
        self, dimension: int, config: PipelineConfig, built_with: Mapping[str, Any], sample: Sequence[str] | None
    ) -> None:
        from qdrant_client import models

        distance = _distance(built_with["encoder"])
        params = {signal.name: signal.params(dimension, distance) for signal in config.table}
        if config.compressed is not None:
            form, coded = config.compressed.params(), config.compressed.has_codes
            named = [
                s.name for s in config.table if (s.name == DENSE if coded else config.compression in s.compressible)
            ]
            params |= {name: params[name].model_copy(update=form) for name in named}
            if coded:
                params[CODES] = config.compressed.codes(dimension, distance)
        dense = {name: each for name, each in params.items() if isinstance(each, models.VectorParams)}
        sparse = {name: each for name, each in params.items() if isinstance(each, models.SparseVectorParams)}
        self.client.create_collection(
            self.name,
            vectors_config=dense,
            sparse_vectors_config=sparse or None,
            metadata={_METADATA_KEY: built_with} | ({} if sample is None else {_SAMPLE_KEY: list(sample)}),
        )
        self._create_indexes(config)

    def _compressed(self, existing: PipelineConfig, config: PipelineConfig) -> PipelineConfig:
        """Compress the stored vectors as the configuration says; return it as the collection is.

        Args:
            existing: The configuration without signals that the collection lacks.
            config: The configuration.
        """
        from qdrant_client import models

        if config.compressed is not None and config.compressed.has_codes:
            self._compression = config.compressed
            self._project(begin=False)
            return config
        stored = self.client.get_collection(self.name).config.params.vectors
        assert isinstance(stored, dict)
        if config.compressed is None:
            # Searches by codes that are not scored again would be less exact without a word.
            config = replace(config, compression=kind_of(stored[DENSE]))
        if config.compressed is not None:
            form = models.VectorParamsDiff(**config.compressed.params())
            kind = config.compression
            names = [s.name for s in existing.table if kind in s.compressible and kind_of(stored[s.name]) != kind]
            if names:
                self.client.update_collection(self.name, vectors_config=dict.fromkeys(names, form))
            self.gateway.params = config.compressed.search()
        return config

    def _create_indexes(self, config: PipelineConfig) -> None:
        from qdrant_client import models

        for key in (*INDEXED_KEYS, *(f"metadata.{key}" for key in config.keys)):
            self.client.create_payload_index(self.name, key, models.PayloadSchemaType.KEYWORD)
        self.client.create_payload_index(self.name, "version", models.PayloadSchemaType.INTEGER)

    # -- writing ------------------------------------------------------------------------------------------------

    def write(self, versions: Sequence[Version]) -> None:
        """Write new versions, then delete the old ones, then mark the new ones as complete.

        After a crash at any moment at least one version of each document can be found, and the mark shows the
        incomplete ones. Only older versions are deleted, so of two writers of one document the newer one wins; the one
        that finishes last checks for the other's version.
        """
        now = _next_version()
        batch: list[models.PointStruct] = []
        for version in versions:
            for point in _points(version, now, self.gateway):
                batch.append(point)
                if len(batch) == BATCH_POINTS:
                    self.client.upsert(self.name, batch, wait=True)
                    batch = []
        if batch:
            self.client.upsert(self.name, batch, wait=True)
        document_ids = [version.document_id for version in versions]
        self._finish(document_ids, now)
        self._keep_newest(document_ids)
        if self._compression is not None and self._compression.has_codes and self.gateway.codes is None:
            self._project(begin=True)

    def _project(self, begin: bool) -> None:
        """Search by codes from now on, if the collection has them, or may get them."""
        with self._projecting:
            if self.gateway.codes is not None or self._compression is None:
                return
            try:
                self.gateway.codes = codes_of(self, self._compression, begin)
            except Exception as error:  # of REST, of gRPC or of a tenant's client
                if not _forbidden(error):
                    raise
                warnings.warn(
                    f"this client may not change the metadata of collection {self.name!r}, which keep what makes "
                    f"codes of compression={self._compression.kind!r}, so that the collection is searched exactly: "
                    "open it once with a key that may",
                    FallbackWarning,
                    stacklevel=2,
                )
                self._compression = None  # not again with the next documents

    def projection(self) -> Mapping[str, Any] | None:
        """What makes codes of dense vectors, as the collection keeps it: a coder's ``to_json``."""
        return self._metadata().get(_PROJECTION_KEY)

    def keep_projection(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keep what makes codes where there is none; return the one that is kept, another writer's, perhaps."""
        if self.projection() is None:  # fitting it took seconds
            self._set_metadata({_PROJECTION_KEY: values})
        return self._metadata()[_PROJECTION_KEY]  # type: ignore[no-any-return]

    def _keep_newest(self, document_ids: Sequence[str]) -> None:
        """Delete points that an older writer wrote after a newer one had deleted the older versions."""
        from qdrant_client import models

        newest: dict[str, int] = {}
        overtaken = set()
        for payload in self._scroll(_first_chunks(document_ids), ["document_id", "version", STATE]):
            document_id, version = payload["document_id"], payload["version"]
            if payload.get(STATE) is None:
                if document_id in newest:
                    overtaken.add(document_id)
                newest[document_id] = max(version, newest.get(document_id, version))
        for document_id in overtaken:
            older = models.FieldCondition(key="version", range=models.Range(lt=newest[document_id]))
            where = models.Filter(must=[in_documents([document_id]), older])
            self.client.delete(self.name, where, wait=True)

    def _finish(self, document_ids: Sequence[str], version: int) -> None:
        from qdrant_client import models

        documents = models.FieldCondition(key="document_id", match=models.MatchAny(any=list(document_ids)))
        older = models.FieldCondition(key="version", range=models.Range(lt=version))
        this = models.FieldCondition(key="version", range=models.Range(gte=version, lte=version))
        self.client.delete(self.name, models.Filter(must=[documents, older]), wait=True)
        self.client.delete_payload(self.name, [STATE], models.Filter(must=[documents, this]), wait=True)

    def _repair(self) -> None:
        """Finish the versions whose points are all stored, and undo the others: they were never acknowledged."""
        from qdrant_client import models

        in_writing = models.FieldCondition(key=STATE, match=models.MatchValue(value=WRITING))
        left: dict[tuple[str, str], tuple[int, int]] = {}
        for payload in self._scroll(
            models.Filter(must=[in_writing]), ["document_id", "document_hash", "version", "chunks"]
        ):
            key = payload["document_id"], payload["document_hash"]
            # Two writers of the same text share their points' ids, so the points may carry either's number.
            left[key] = max(left.get(key, (0, 0)), (payload["version"], payload["chunks"]))
        newest = (time.time() - self._abandoned_after) * 1e6
        for (document_id, document_hash), (version, chunks) in sorted(left.items(), key=lambda item: item[1]):
            if version > newest and self._abandoned_after:
                continue
            this: list[models.Condition] = [
                models.FieldCondition(key="document_id", match=models.MatchValue(value=document_id)),
                models.FieldCondition(key="document_hash", match=models.MatchValue(value=document_hash)),
            ]
            if self.client.count(self.name, models.Filter(must=this), exact=True).count == chunks:
                self.client.set_payload(self.name, {"version": version}, models.Filter(must=this), wait=True)
                self._finish([document_id], version)
            else:
                self.client.delete(self.name, models.Filter(must=[*this, in_writing]), wait=True)

    # -- reading ------------------------------------------------------------------------------------------------

    def complete_versions(self, document_ids: Sequence[str]) -> dict[str, set[str]]:
        """Document id -> hashes of its complete versions, for those of the documents that are stored."""
        known: dict[str, set[str]] = {}
        for payload in self._scroll(_first_chunks(document_ids), ["document_id", "document_hash", STATE]):
            if payload.get(STATE) is None:
                known.setdefault(payload["document_id"], set()).add(payload["document_hash"])
        return known

    def document_ids(self) -> list[str]:
        """Ids of all documents, sorted."""
        from qdrant_client import models

        first = models.Filter(must=[models.FieldCondition(key="index", range=models.Range(gte=0, lte=0))])
        return sorted({payload["document_id"] for payload in self._scroll(first, ["document_id"])})

    def payloads(self, document_ids: Sequence[str]) -> Iterable[Mapping[str, Any]]:
        """Payloads of all points of these documents."""
        return self._scroll(in_documents(document_ids), True)

    def records(self, document_ids: Sequence[str], vectors: Sequence[str] = ()) -> list[models.Record]:
        """All points of these documents, with their payloads and these of their vectors."""
        return list(self.scroll(in_documents(document_ids), True, vectors))

    def _scroll(self, where: models.Filter, keys: list[str] | bool) -> Iterable[Mapping[str, Any]]:
        return (record.payload or {} for record in self.scroll(where, keys))

    def scroll(
        self, where: models.Filter | None, keys: list[str] | bool, vectors: Sequence[str] = ()
    ) -> Iterable[models.Record]:
        """Points in the order of their ids, with these keys of their payloads (or all, or none) and these vectors."""
        offset: Any = None
        while True:
            records, offset = self.client.scroll(
                self.name,
                where,
                limit=BATCH_POINTS,
                offset=offset,
                with_payload=keys,
                with_vectors=list(vectors) or False,
            )
            yield from records
            if offset is None:
                return


def _fingerprint(encoder: Mapping[str, Any], config: PipelineConfig) -> dict[str, Any]:
    """What decides the stored vectors, as it is read back from a collection's metadata."""
    read: dict[str, Any] = json.loads(json.dumps({"encoder": encoder, "stored": config.stored()}, default=str))
    return read


def _filling_entry(names: Iterable[str], after: str) -> dict[str, Any]:
    return {_FILLING_KEY: {"names": sorted(names), "after": after}}


def _distance(encoder: Mapping[str, Any]) -> models.Distance:
    """A model trained for the dot product uses its vectors' lengths, which cosine would discard."""
    from qdrant_client import models

    return models.Distance.DOT if encoder.get("similarity") == "dot" else models.Distance.COSINE


def _forbidden(error: Exception) -> bool:
    """Whether the client has no right to what it asked for."""
    from grpc import RpcError, StatusCode  # type: ignore[import-untyped]

    from situate.retrievers.storage.edge.tenant import TenantBoundError

    if isinstance(error, RpcError):
        code = getattr(error, "code", None)
        return callable(code) and code() is StatusCode.PERMISSION_DENIED
    return isinstance(error, TenantBoundError) or getattr(error, "status_code", None) == 403


def _points(version: Version, number: int, gateway: Gateway) -> Iterable[models.PointStruct]:
    from qdrant_client import models

    for place, chunk in enumerate(version.chunks):
        # Made here, of the right types: pydantic's validation of a chunk's 60,000 numbers would take longer than
        # storing them.
        vectors = version.of_chunk(place, gateway)
        if gateway.codes is not None:
            row = version.vectors[DENSE][place]
            assert isinstance(row, np.ndarray)
            vectors[CODES] = gateway.codes.coder(row).tolist()
        yield models.PointStruct.model_construct(
            id=point_id(chunk.id, version.document_hash),
            vector=vectors,
            payload=to_payload(chunk, version.document_hash, len(version.chunks), number),
        )


_last_version = 0
_version_lock = threading.Lock()


def _next_version() -> int:
    """Microseconds since the epoch, larger than any before: exact in the double that a range filter compares with."""
    global _last_version
    with _version_lock:
        _last_version = max(_last_version + 1, time.time_ns() // 1000)
        return _last_version
