"""What the parts of the embedded backend share."""

from __future__ import annotations

from collections.abc import Sequence

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types

from situate.retrievers.storage.edge.store import Store

COMPLETED = models.UpdateStatus.COMPLETED


class BackendBase(QdrantBase):
    """A store, and how its collections are changed."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    @property
    def store(self) -> Store:
        """The store underneath."""
        return self._store

    def _update(
        self, collection_name: str, operations: Sequence[edge.UpdateOperation], points: int, *, grows: bool = True
    ) -> types.UpdateResult:
        """Applies ``operations``, which change about ``points`` points."""
        if self._store.options.read_only:
            self._store.check_writable()
        self._store.collection(collection_name).update(operations, points, grows=grows)
        return models.UpdateResult.model_construct(operation_id=0, status=COMPLETED)
