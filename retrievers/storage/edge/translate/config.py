"""Collection configuration: qdrant-client's models -> the engine's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import qdrant_edge as edge
from qdrant_client import models

from situate.errors import InputError

_EdgeEnum = TypeVar("_EdgeEnum")

#: The engine's defaults, as a server reports them.
HNSW_DEFAULTS: dict[str, Any] = {
    "m": 16,
    "ef_construct": 100,
    "full_scan_threshold": 10_000,
    "max_indexing_threads": 0,
}


#: A sparse vector that no point has: the engine needs a collection to have one, and loses the points where its last one
#: is deleted.
NO_VECTORS = "situate-no-vectors"


def _by_value(model: type[Enum], engine: Any, **renamed: str) -> dict[Any, Any]:
    """Each member of a qdrant-client enum -> the engine's member of the same name, or of the name given."""

    def name(member: Enum) -> str:
        value = renamed.get(member.name, str(member.value))
        return value if hasattr(engine, value) else "".join(part.capitalize() for part in value.split("_"))

    return {member: getattr(engine, name(member)) for member in model if hasattr(engine, name(member))}


DISTANCES = _by_value(models.Distance, edge.Distance)
DATATYPES = _by_value(models.Datatype, edge.VectorStorageDatatype)
STORAGE_DATATYPES = _by_value(models.VectorStorageDatatype, edge.VectorStorageDatatype)
MEMORY = _by_value(models.Memory, edge.Memory)
MODIFIERS = _by_value(models.Modifier, edge.Modifier)
COMPRESSION = _by_value(models.CompressionRatio, edge.CompressionRatio)
SCALAR_TYPES = _by_value(models.ScalarType, edge.ScalarType)
COMPARATORS = _by_value(models.MultiVectorComparator, edge.MultiVectorComparator)
BINARY_ENCODINGS = _by_value(
    models.BinaryQuantizationEncoding, edge.BinaryQuantizationEncoding, ONE_AND_HALF_BITS="OneAndHalfBits"
)
BINARY_QUERY_ENCODINGS = _by_value(
    models.BinaryQuantizationQueryEncoding,
    edge.BinaryQuantizationQueryEncoding,
    SCALAR4BITS="Scalar4Bits",
    SCALAR8BITS="Scalar8Bits",
)
TURBO_BITS = _by_value(
    models.TurboQuantBitSize,
    edge.TurboQuantBitSize,
    BITS1="Bits1",
    BITS1_5="Bits1_5",
    BITS2="Bits2",
    BITS4="Bits4",
    BITS8="Bits8",
)


def pick(table: Mapping[Any, _EdgeEnum], value: Any, what: str) -> _EdgeEnum | None:
    """``table[value]``, None for None.

    Raises:
        InputError: The engine knows no such value.
    """
    if value is None:
        return None
    if value not in table:
        known = ", ".join(str(getattr(key, "value", key)) for key in table)
        raise InputError(f"{what} {getattr(value, 'value', value)!r} is not one of {known}")
    return table[value]


def _scalar(q: models.ScalarQuantization) -> edge.ScalarQuantizationConfig:
    c = q.scalar
    return edge.ScalarQuantizationConfig(
        SCALAR_TYPES[c.type], quantile=c.quantile, always_ram=c.always_ram, memory=pick(MEMORY, c.memory, "memory")
    )


def _product(q: models.ProductQuantization) -> edge.ProductQuantizationConfig:
    c = q.product
    return edge.ProductQuantizationConfig(
        COMPRESSION[c.compression], always_ram=c.always_ram, memory=pick(MEMORY, c.memory, "memory")
    )


def _binary(q: models.BinaryQuantization) -> edge.BinaryQuantizationConfig:
    c = q.binary
    return edge.BinaryQuantizationConfig(
        always_ram=c.always_ram,
        encoding=pick(BINARY_ENCODINGS, c.encoding, "binary encoding"),
        query_encoding=pick(BINARY_QUERY_ENCODINGS, c.query_encoding, "binary query encoding"),
        memory=pick(MEMORY, c.memory, "memory"),
    )


def _turbo(q: models.TurboQuantization) -> edge.TurboQuantQuantizationConfig:
    c = q.turbo
    return edge.TurboQuantQuantizationConfig(
        always_ram=c.always_ram,
        bits=pick(TURBO_BITS, c.bits, "turbo bits"),
        memory=pick(MEMORY, c.memory, "memory"),
    )


_QUANTIZATIONS: dict[type, Callable[[Any], Any]] = {
    models.ScalarQuantization: _scalar,
    models.ProductQuantization: _product,
    models.BinaryQuantization: _binary,
    models.TurboQuantization: _turbo,
}


def edge_quantization(quantization: Any) -> Any:
    """The engine's quantization settings; None for None and for `Disabled`."""
    if quantization is None or isinstance(quantization, models.Disabled):
        return None
    translate = _QUANTIZATIONS.get(type(quantization))
    if translate is None:
        raise InputError(f"quantization cannot be a {type(quantization).__name__}")
    return translate(quantization)


def edge_hnsw(config: models.HnswConfigDiff | None, base: models.HnswConfigDiff | None = None) -> Any:
    """The engine's HNSW settings: ``config`` over ``base`` over the defaults; None where nothing is set."""
    if config is None:
        return None
    values = dict(HNSW_DEFAULTS)
    for layer in (base, config):
        if layer is not None:
            values.update(layer.model_dump(exclude_none=True))
    memory = values.pop("memory", None)
    return edge.HnswIndexConfig(**values, memory=pick(MEMORY, memory, "memory"))


def edge_multivector(config: models.MultiVectorConfig | None) -> edge.MultiVectorConfig | None:
    """The engine's multi-vector settings."""
    return None if config is None else edge.MultiVectorConfig(COMPARATORS[config.comparator])


def edge_vector_params(params: models.VectorParams, hnsw: models.HnswConfigDiff | None = None) -> edge.EdgeVectorParams:
    """The engine's settings of one dense vector."""
    return edge.EdgeVectorParams(
        size=params.size,
        distance=DISTANCES[params.distance],
        on_disk=params.on_disk,
        multivector_config=edge_multivector(params.multivector_config),
        datatype=pick(DATATYPES, params.datatype, "datatype"),
        quantization_config=edge_quantization(params.quantization_config),
        hnsw_config=edge_hnsw(params.hnsw_config, hnsw),
        memory=pick(MEMORY, params.memory, "memory"),
    )


def edge_sparse_params(params: models.SparseVectorParams) -> edge.EdgeSparseVectorParams:
    """The engine's settings of one sparse vector."""
    index = params.index or models.SparseIndexParams()
    return edge.EdgeSparseVectorParams(
        full_scan_threshold=index.full_scan_threshold,
        on_disk=index.on_disk,
        modifier=pick(MODIFIERS, params.modifier, "modifier"),
        datatype=pick(DATATYPES, index.datatype, "datatype"),
        memory=pick(MEMORY, index.memory, "memory"),
    )


def edge_optimizers(config: models.OptimizersConfigDiff | None) -> edge.EdgeOptimizersConfig | None:
    """The engine's optimizer settings. Flush intervals and thread counts are the store's own, not the engine's."""
    if config is None:
        return None
    return edge.EdgeOptimizersConfig(
        deleted_threshold=config.deleted_threshold,
        vacuum_min_vector_number=config.vacuum_min_vector_number,
        default_segment_number=config.default_segment_number,
        max_segment_size=config.max_segment_size,
        indexing_threshold=config.indexing_threshold,
        prevent_unoptimized=config.prevent_unoptimized,
    )


def named_vectors(vectors: Any) -> dict[str, models.VectorParams]:
    """Dense vectors by name; the unnamed one is ""."""
    if vectors is None:
        return {}
    if isinstance(vectors, models.VectorParams):
        return {"": vectors}
    return dict(vectors)


def vectors_of(shard: Path) -> frozenset[str] | None:
    """The names of all vectors that the engine's own configuration in a shard's folder has; None where it has no such.

    After a crash between the engine's deletion of a vector and the write of `store.json`, the latter still names it.
    """
    try:
        values = json.loads((shard / "edge_config.json").read_text())
        return frozenset({*values["vectors"], *values["sparse_vectors"]})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def without_vectors(config: models.CreateCollection, keep: Callable[[str], bool]) -> models.CreateCollection:
    """``config`` with the vectors whose names ``keep`` has."""
    dense, sparse = named_vectors(config.vectors), config.sparse_vectors or {}
    if all(map(keep, (*dense, *sparse))):
        return config
    kept = {
        "vectors": {name: params for name, params in dense.items() if keep(name)},
        "sparse_vectors": {name: params for name, params in sparse.items() if keep(name)},
    }
    return config.model_copy(update=kept)


def _payload_memory(config: models.CreateCollection) -> edge.Memory | None:
    """Payloads are read into the page cache when a shard is loaded, unless the configuration differs.

    The engine's default is to leave payloads on disk, as on a server that holds many collections. After every
    optimisation the first searches then wait for the disk, once a hit.
    """
    if config.payload is not None:
        return pick(MEMORY, config.payload.memory, "memory")
    return edge.Memory.Cached if config.on_disk_payload is None else None


def edge_config(config: models.CreateCollection, *, wal: bool | None = None) -> edge.EdgeConfig:
    """The engine's configuration of a shard that holds the whole collection.

    Args:
        config: The collection's configuration.
        wal: Whether there is a write-ahead log. Fixed when a shard is made; None leaves it as it is.
    """
    dense = {n: edge_vector_params(p, config.hnsw_config) for n, p in named_vectors(config.vectors).items()}
    sparse = {n: edge_sparse_params(p) for n, p in (config.sparse_vectors or {}).items()}
    return edge.EdgeConfig(
        vectors=dense,
        sparse_vectors=sparse if dense or sparse else {NO_VECTORS: edge.EdgeSparseVectorParams()},
        on_disk_payload=config.on_disk_payload,
        hnsw_config=edge_hnsw(config.hnsw_config),
        quantization_config=edge_quantization(config.quantization_config),
        optimizers=edge_optimizers(config.optimizers_config),
        payload_memory=_payload_memory(config),
        id_tracker_memory=None if config.id_tracker is None else pick(MEMORY, config.id_tracker.memory, "memory"),
        wal_enabled=wal,
    )
