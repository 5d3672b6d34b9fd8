"""Collections, aliases, vector names and payload indexes of an embedded store."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import qdrant_edge as edge
from pydantic_core import to_jsonable_python
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types
from qdrant_client.local.payload_value_setter import merge_payload

from situate.errors import InputError, StorageError
from situate.retrievers.storage.edge.collection import Collection
from situate.retrievers.storage.edge.errors import (
    ClusterOnlyError,
    CollectionExistsError,
    CollectionNotFoundError,
    engine_errors,
)
from situate.retrievers.storage.edge.store import Store
from situate.retrievers.storage.edge.translate.config import (
    DISTANCES,
    HNSW_DEFAULTS,
    MODIFIERS,
    NO_VECTORS,
    STORAGE_DATATYPES,
    edge_multivector,
    named_vectors,
    pick,
    without_vectors,
)
from situate.retrievers.storage.edge.translate.indexes import edge_index, model_index

#: The characters that a server refuses in names.
_INVALID_NAME_CHARACTERS = frozenset('<>:"/\\|?*\0\x1f')
_MAX_VECTOR_SIZE = 65_536
_U = edge.UpdateOperation


def _check_collection_name(name: str) -> None:
    bad = sorted(_INVALID_NAME_CHARACTERS.intersection(name))
    if bad:
        raise InputError(f"Collection name {name!r} cannot contain {bad[0]!r}")
    if name in ("", ".", "..") or len(name) > 255:
        raise InputError(f"Collection name {name!r} is invalid: 1 to 255 characters, and neither '.' nor '..'")


def _check_vector_name(name: str) -> None:
    bad = sorted(_INVALID_NAME_CHARACTERS.intersection(name))
    if bad or name in (".", "..", NO_VECTORS) or len(name.encode()) > 200:
        raise InputError(
            f"Invalid vector name {name!r}: at most 200 bytes, none of {''.join(sorted(_INVALID_NAME_CHARACTERS))!r}, "
            f"and neither '.', '..' nor {NO_VECTORS!r}"
        )


def _check_vector_size(name: str, size: int) -> None:
    if not 1 <= size <= _MAX_VECTOR_SIZE:
        raise InputError(f"Vector {name!r} has the size {size}. Must be from 1 to {_MAX_VECTOR_SIZE}.")


class CollectionsBackend(QdrantBase):
    """The part of the interface that is about collections."""

    store: Store

    def create_collection(
        self,
        collection_name: str,
        vectors_config: types.VectorParams | Mapping[str, types.VectorParams] | None = None,
        sparse_vectors_config: Mapping[str, types.SparseVectorParams] | None = None,
        hnsw_config: types.HnswConfigDiff | None = None,
        optimizers_config: types.OptimizersConfigDiff | None = None,
        wal_config: types.WalConfigDiff | None = None,
        quantization_config: types.QuantizationConfig | None = None,
        strict_mode_config: types.StrictModeConfig | None = None,
        on_disk_payload: bool | None = None,
        payload: types.PayloadStorageParams | None = None,
        id_tracker: types.IdTrackerParams | None = None,
        metadata: types.Payload | None = None,
        **kwargs: Any,
    ) -> bool:
        _check_collection_name(collection_name)
        if kwargs.get("sharding_method") == models.ShardingMethod.CUSTOM:
            raise ClusterOnlyError.of("custom sharding")
        for name, params in named_vectors(vectors_config).items():
            _check_vector_name(name)
            _check_vector_size(name, params.size)
        for name in sparse_vectors_config or {}:
            _check_vector_name(name)
            if not name:
                raise InputError("Sparse vector name cannot be empty")
        config = models.CreateCollection(
            vectors=vectors_config if isinstance(vectors_config, models.VectorParams) else dict(vectors_config or {}),
            sparse_vectors=None if sparse_vectors_config is None else dict(sparse_vectors_config),
            hnsw_config=hnsw_config,
            optimizers_config=optimizers_config,
            wal_config=wal_config,
            quantization_config=quantization_config,
            strict_mode_config=strict_mode_config,
            on_disk_payload=on_disk_payload,
            payload=payload,
            id_tracker=id_tracker,
            metadata=to_jsonable_python(metadata),
        )
        self.store.create(collection_name, config)
        return True

    def recreate_collection(self, collection_name: str, *args: Any, **kwargs: Any) -> bool:
        _check_collection_name(collection_name)
        self.store.delete(collection_name)
        return self.create_collection(collection_name, *args, **kwargs)

    def delete_collection(self, collection_name: str, **kwargs: Any) -> bool:
        return self.store.delete(collection_name)

    def collection_exists(self, collection_name: str, **kwargs: Any) -> bool:
        try:
            self.store.collection(collection_name)
        except CollectionNotFoundError:
            return False
        return True

    def get_collections(self, **kwargs: Any) -> types.CollectionsResponse:
        return models.CollectionsResponse(
            collections=[models.CollectionDescription(name=c.name) for c in self.store.collections()]
        )

    def get_collection(self, collection_name: str, **kwargs: Any) -> types.CollectionInfo:
        collection = self.store.collection(collection_name)
        info, config = collection.info(), collection.config
        hnsw = dict(HNSW_DEFAULTS)
        if config.hnsw_config is not None:
            hnsw.update(config.hnsw_config.model_dump(exclude_none=True))
        optimizers: dict[str, Any] = {
            "default_segment_number": 0,
            "flush_interval_sec": 5,
            "indexing_threshold": 10_000,
        }
        if config.optimizers_config is not None:
            optimizers.update(
                config.optimizers_config.model_dump(exclude_none=True, exclude={"max_optimization_threads"})
            )
        return models.CollectionInfo(
            status=_status(collection),
            optimizer_status=models.OptimizersStatusOneOf.OK
            if collection.error is None
            else models.OptimizersStatusOneOf1(error=collection.error),
            indexed_vectors_count=info.indexed_vectors_count,
            points_count=info.points_count,
            segments_count=info.segments_count,
            config=models.CollectionConfig(
                params=models.CollectionParams(
                    vectors=config.vectors,
                    sparse_vectors=config.sparse_vectors,
                    on_disk_payload=True if config.on_disk_payload is None else config.on_disk_payload,
                    payload=config.payload,
                    id_tracker=config.id_tracker,
                ),
                hnsw_config=models.HnswConfig(**hnsw),
                optimizer_config=models.OptimizersConfig(**optimizers),
                wal_config=models.WalConfig(wal_capacity_mb=32, wal_segments_ahead=0),
                quantization_config=config.quantization_config,
                metadata=config.metadata,
            ),
            payload_schema={name: model_index(index) for name, index in info.payload_schema.items()},
            created_at=dt.datetime.fromisoformat(collection.created_at),
        )

    def update_collection(
        self,
        collection_name: str,
        optimizers_config: types.OptimizersConfigDiff | None = None,
        collection_params: types.CollectionParamsDiff | None = None,
        vectors_config: Any = None,
        hnsw_config: types.HnswConfigDiff | None = None,
        quantization_config: Any = None,
        sparse_vectors_config: Mapping[str, types.SparseVectorParams] | None = None,
        strict_mode_config: types.StrictModeConfig | None = None,
        metadata: types.Payload | None = None,
        **kwargs: Any,
    ) -> bool:
        collection = self.store.collection(collection_name).opened()
        config = collection.config.model_copy(deep=True)
        dense = named_vectors(config.vectors)
        for name, diff in _vector_diffs(vectors_config).items():
            if name not in dense:
                raise InputError(f"Wrong input: Not existing vector name error: {name}")
            _merge(dense[name], diff)
        sparse = dict(config.sparse_vectors or {})
        for name, params in (sparse_vectors_config or {}).items():
            if name not in sparse:
                raise InputError(f"Vector {name} does not exist in the collection")
            _merge(sparse[name], params)
        for name, diff in (
            ("optimizers_config", optimizers_config),
            ("hnsw_config", hnsw_config),
            ("strict_mode_config", strict_mode_config),
        ):
            if diff is not None:
                base = getattr(config, name)
                setattr(config, name, diff if base is None else _merge(base, diff))
        if quantization_config is not None:
            config.quantization_config = _quantization(quantization_config)
        if collection_params is not None:
            for name in ("on_disk_payload", "payload", "id_tracker"):
                if getattr(collection_params, name) is not None:
                    setattr(config, name, getattr(collection_params, name))
        if metadata is not None:
            config.metadata = merge_payload(config.metadata or {}, to_jsonable_python(metadata))
        settings = (optimizers_config, collection_params, vectors_config, hnsw_config, quantization_config)
        reload = any(s is not None for s in (*settings, sparse_vectors_config))
        self.store.reconfigure(collection, config, reload=reload)
        return True

    # -- aliases

    def update_collection_aliases(
        self, change_aliases_operations: Sequence[types.AliasOperations], **kwargs: Any
    ) -> bool:
        aliases = self.store.aliases
        names = {c.name for c in self.store.collections()}

        def free(alias: str) -> str:
            if alias in names:
                raise CollectionExistsError(f"Collection {alias} already exists")
            return alias

        for operation in change_aliases_operations:
            if isinstance(operation, models.CreateAliasOperation):
                create = operation.create_alias
                if create.collection_name not in names:
                    raise CollectionNotFoundError(f"Collection {create.collection_name} not found")
                aliases[free(create.alias_name)] = create.collection_name
            elif isinstance(operation, models.DeleteAliasOperation):
                aliases.pop(operation.delete_alias.alias_name, None)
            elif isinstance(operation, models.RenameAliasOperation):
                rename = operation.rename_alias
                if rename.old_alias_name not in aliases:
                    raise CollectionNotFoundError(f"Alias {rename.old_alias_name} does not exist")
                aliases[free(rename.new_alias_name)] = aliases.pop(rename.old_alias_name)
            else:
                raise InputError(f"Unknown operation: {operation}")
        self.store.change_aliases(aliases)
        return True

    def get_collection_aliases(self, collection_name: str, **kwargs: Any) -> types.CollectionsAliasesResponse:
        return _aliases({a: n for a, n in self.store.aliases.items() if n == collection_name})

    def get_aliases(self, **kwargs: Any) -> types.CollectionsAliasesResponse:
        return _aliases(self.store.aliases)

    # -- payload indexes

    def create_payload_index(
        self,
        collection_name: str,
        field_name: str,
        field_schema: Any = None,
        field_type: Any = None,
        **kwargs: Any,
    ) -> types.UpdateResult:
        schema = field_schema if field_schema is not None else field_type
        if schema is None:
            raise InputError(f"an index on {field_name!r} needs a field_schema (PayloadSchemaType or index parameters)")
        with engine_errors(f"an index on {field_name!r}"):
            operation = _U.create_field_index(field_name, edge_index(schema, field_name))
        return self.store.collection(collection_name).update([operation], 0)

    def delete_payload_index(self, collection_name: str, field_name: str, **kwargs: Any) -> types.UpdateResult:
        return self.store.collection(collection_name).update([_U.delete_field_index(field_name)], 0)

    # -- vector names

    def create_vector_name(
        self, collection_name: str, vector_name: str, vector_name_config: types.VectorNameConfig, **kwargs: Any
    ) -> types.UpdateResult:
        collection = self.store.collection(collection_name).opened()
        _check_vector_name(vector_name)
        if vector_name in collection.schema.names:
            raise InputError(f"Collection {collection.name} already has a vector named {vector_name!r}")
        config = collection.config.model_copy(deep=True)
        if isinstance(vector_name_config, models.DenseVectorNameConfig):
            dense = vector_name_config.dense
            _check_vector_size(vector_name, dense.size)
            operation = _U.create_dense_vector(
                vector_name,
                dense.size,
                DISTANCES[dense.distance],
                edge_multivector(dense.multivector_config),
                pick(STORAGE_DATATYPES, dense.datatype, "datatype"),
            )
            params = models.VectorParams(
                size=dense.size,
                distance=dense.distance,
                multivector_config=dense.multivector_config,
                datatype=None if dense.datatype is None else models.Datatype(dense.datatype.value),
            )
            config.vectors = {**named_vectors(config.vectors), vector_name: params}
        elif isinstance(vector_name_config, models.SparseVectorNameConfig):
            sparse = vector_name_config.sparse
            operation = _U.create_sparse_vector(
                vector_name,
                pick(MODIFIERS, sparse.modifier, "modifier"),
                pick(STORAGE_DATATYPES, sparse.datatype, "datatype"),
            )
            index = (
                None
                if sparse.datatype is None
                else models.SparseIndexParams(datatype=models.Datatype(sparse.datatype.value))
            )
            config.sparse_vectors = {
                **(config.sparse_vectors or {}),
                vector_name: models.SparseVectorParams(modifier=sparse.modifier, index=index),
            }
        else:
            raise InputError(f"Unsupported vector name config type: {type(vector_name_config).__name__}")
        # A vector that a crash left there before the configuration was saved is made anew.
        return self.store.change_vectors(collection, config, [_U.delete_vector_name(vector_name), operation])

    def delete_vector_name(self, collection_name: str, vector_name: str, **kwargs: Any) -> types.UpdateResult:
        collection = self.store.collection(collection_name).opened()
        if vector_name not in collection.schema.names:
            raise InputError(f"Collection {collection.name} has no vector named {vector_name!r}")
        config = without_vectors(collection.config, lambda name: name != vector_name)
        operations = [_U.delete_vector_name(vector_name)]
        if not config.vectors and not config.sparse_vectors:
            operations.insert(0, _U.create_sparse_vector(NO_VECTORS, None, None))
        return self.store.change_vectors(collection, config, operations)


def _status(collection: Collection) -> models.CollectionStatus:
    """Yellow during an optimisation, grey while one is due but not begun."""
    if collection.optimizing is not None:
        return models.CollectionStatus.YELLOW
    return models.CollectionStatus.GREY if collection.optimization_due else models.CollectionStatus.GREEN


def _aliases(aliases: Mapping[str, str]) -> types.CollectionsAliasesResponse:
    return models.CollectionsAliasesResponse(
        aliases=[models.AliasDescription(alias_name=a, collection_name=n) for a, n in aliases.items()]
    )


def _vector_diffs(diffs: Any) -> dict[str, Any]:
    if diffs is None:
        return {}
    return dict(diffs) if isinstance(diffs, Mapping) else {"": diffs}


def _merge(base: Any, diff: Any) -> Any:
    """``base`` with the fields that ``diff`` sets, in place."""
    for name in type(diff).model_fields:
        value = getattr(diff, name)
        if value is None:
            continue
        if name == "quantization_config":
            value = _quantization(value)
        inner = getattr(base, name, None)
        both = hasattr(type(inner), "model_fields") and type(inner) is type(value)
        setattr(base, name, _merge(inner, value) if both else value)
    return base


def _quantization(given: Any) -> Any:
    if isinstance(given, models.Disabled):
        raise StorageError(
            "quantization cannot be taken from an embedded collection: search with "
            "QuantizationSearchParams(ignore=True), or copy its points to a new collection"
        )
    return given
