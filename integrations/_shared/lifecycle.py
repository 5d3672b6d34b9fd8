"""Opening, warming up and closing a store or retriever over an `Index`."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Self

from situate.lifecycle import Openable

if TYPE_CHECKING:
    from situate.retrievers.index.index import Index


class OpensIndex(Openable):
    """A store or retriever over an `Index`."""

    @abstractmethod
    def _searched(self) -> Index:
        """The index that is searched."""

    def open(self) -> Self:
        """Open the index's store; see `Openable.open`."""
        self._searched().open()
        return self

    def warm_up(self) -> Self:
        """`open`, and whatever else a first query waits for."""
        self._searched().warm_up()
        return self

    def close(self) -> None:
        """Close the index's store. A client given by the caller stays open."""
        self._searched().close()
