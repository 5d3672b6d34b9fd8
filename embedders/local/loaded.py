"""The loaded models of the process, each once.

An application makes many small objects around one model: a LlamaIndex embedding, a LangChain one, an index, copies of
each that were pickled to a worker. If each loaded its own weights, each would take memory, and they would compete for
one device instead of sharing batches. So embedders of the same settings share an `Encoder`, and encoders that differ
only in what happens before and after the model (pooling, norm, dimensions, the treatment of long texts) share its
`LoadedModel`. The references are weak: the encoder lives as long as its last embedder, the model as long as its last
encoder.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from situate.embedders.local.scheduler import Scheduler
from situate.embedders.models.folder import ModelFolder
from situate.embedders.models.resolve import SAFE, LoadOptions
from situate.embedders.models.variant import AS_IT_IS, Variant
from situate.errors import FallbackWarning
from situate.threads import OwnedLock, renew_after_fork

if TYPE_CHECKING:
    from situate.embedders.local.encoder import Encoder
    from situate.embedders.models.adapters import Adapter
    from situate.embedders.text.heads import Heads

_T = TypeVar("_T")
_SHARED: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()


class _Registry:
    """Guards `_SHARED`; a lock that a signal handler may take again, since an entry is made before it is entered."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self.lock = threading.RLock()


_REGISTRY = _Registry()


def shared(key: Hashable, make: Callable[[], _T]) -> _T:
    """The process's object under ``key``, made now if there is none."""
    with _REGISTRY.lock:
        found: _T | None = _SHARED.get(key)
        if found is None:
            found = _SHARED[key] = make()
        return found


def shared_encoder(files: Hashable, **settings: Any) -> Encoder:
    """The process's `Encoder` with these weights and settings.

    Args:
        files: What identifies the weights (folder and digest).
        settings: `Encoder`'s arguments.
    """
    from situate.embedders.local.encoder import Encoder

    return shared((Encoder, files, *sorted(settings.items())), lambda: Encoder(**settings))


@dataclass(frozen=True)
class ModelKey:
    """The key of a loaded model: all that decides its weights in memory.

    Attributes:
        folder: The model's folder.
        digest: Changes with its weights.
        device: Where it runs, "auto" resolved.
        dtype: Format to compute in, "auto" resolved.
        exact: Whether the weights are kept in that very format.
        variant: How it differs from what the folder holds, adapters aside.
        options: How its files are read.
        batch_tokens: Most tokens of one pass; None: a number that suits the device.
    """

    folder: ModelFolder
    digest: str
    device: str
    dtype: str
    exact: bool = True
    variant: Variant = AS_IT_IS
    options: LoadOptions = SAFE
    batch_tokens: int | None = None


class LoadedModel:
    """A model, and copies of it with adapters; each is loaded at its first use.

    Only one of them runs at a time, since they have one device; texts for different adapters never share a pass.
    """

    def __init__(self, key: ModelKey) -> None:
        self._key = key
        self._inside = OwnedLock()
        self.renew()
        renew_after_fork(self)
        self._schedulers: dict[Adapter | None, Scheduler] = {}
        self._heads: Heads | None = None

    def renew(self) -> None:
        """A new lock. A signal handler that interrupts the loading loads a copy of its own."""
        self._lock = threading.RLock()

    @classmethod
    def of(cls, key: ModelKey) -> LoadedModel:
        """The process's model with this key. Loads no weights."""
        return shared((cls, key), lambda: cls(key))

    def ready(self, adapter: Adapter | None) -> bool:
        """Whether this adapter's scheduler is loaded."""
        return adapter in self._schedulers

    def scheduler(self, adapter: Adapter | None = None) -> Scheduler:
        """The scheduler that runs the model with this adapter.

        Raises:
            ModelError: The model or the adapter cannot be loaded.
        """
        with self._lock:
            scheduler = self._schedulers.get(adapter)
            if scheduler is None:
                scheduler = self._schedulers[adapter] = self._loaded(adapter)
            return scheduler

    @property
    def heads(self) -> Heads | None:
        """The linear layers after the pooling; None where the model has none."""
        from situate.embedders.text.heads import Heads

        if not self._key.folder.heads:
            return None
        with self._lock:
            if self._heads is None:
                folder = self._key.folder
                self._heads = Heads.load(folder.heads, folder.hidden_size, self._key.options)
            return self._heads

    def _loaded(self, adapter: Adapter | None) -> Scheduler:
        from situate.embedders.forward.chooser import choose_forward
        from situate.embedders.local.devices import chosen_device, chosen_dtype
        from situate.embedders.local.engine import Engine

        key = self._key
        device = chosen_device(key.device)
        choice = choose_forward(
            key.folder.path,
            device,
            chosen_dtype(key.dtype, device),
            key.options,
            max_tokens=key.folder.trained_tokens,
            variant=replace(key.variant, adapter=adapter),
            exact=key.exact,
        )
        if choice.warning is not None:
            warnings.warn(f"model {key.folder.path.name!r}: {choice.warning}", FallbackWarning, stacklevel=2)
        scheduler = Scheduler(Engine(choice, device, key.batch_tokens), inside=self._inside)
        # The thread ends with its model.
        weakref.finalize(self, scheduler.close, drain=False).atexit = False
        return scheduler
