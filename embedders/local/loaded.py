"""A model in memory, once per process, for all encoders that would load the same one.

Encoders that differ only in what happens before and after the model (pooling, norm, dimensions, what becomes of long
texts) share it: its weights are there once, and all their callers fill each other's batches. The references are weak:
with the last encoder goes the model.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from situate.embedders.local.scheduler import Scheduler
from situate.embedders.models.folder import ModelFolder
from situate.embedders.models.resolve import SAFE, LoadOptions
from situate.embedders.models.variant import AS_IT_IS, Variant

if TYPE_CHECKING:
    from situate.embedders.models.adapters import Adapter
    from situate.embedders.text.heads import Heads

_MODELS: weakref.WeakValueDictionary[ModelKey, LoadedModel] = weakref.WeakValueDictionary()
_LOCK = threading.Lock()


@dataclass(frozen=True)
class ModelKey:
    """All that decides what is in memory.

    Attributes:
        folder: The model's folder.
        digest: Changes with its weights.
        device: Where it runs, "auto" resolved.
        dtype: Format to compute in, "auto" resolved.
        exact: Whether the weights are kept in that very format.
        variant: How it differs from what the folder holds, adapters aside.
        options: How its files are read.
        batch_tokens: Most tokens of one pass; None: what suits the device.
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
    """A model, and copies of it with adapters; each is loaded by the first who asks for it.

    Only one of them runs at a time, since they have one device; texts for different adapters never share a pass.
    """

    def __init__(self, key: ModelKey) -> None:
        self._key = key
        self._lock = threading.Lock()
        self._inside = threading.Lock()
        self._schedulers: dict[Adapter | None, Scheduler] = {}
        self._heads: Heads | None = None

    @classmethod
    def of(cls, key: ModelKey) -> LoadedModel:
        """The process's model with this key. Loads no weights."""
        with _LOCK:
            model = _MODELS.get(key)
            if model is None:
                model = _MODELS[key] = cls(key)
            return model

    def ready(self, adapter: Adapter | None) -> bool:
        """Whether asking for this scheduler costs nothing."""
        return adapter in self._schedulers

    def scheduler(self, adapter: Adapter | None = None) -> Scheduler:
        """What runs the model with this adapter.

        Raises:
            ModelError: The model or the adapter cannot be loaded.
        """
        with self._lock:
            scheduler = self._schedulers.get(adapter)
            if scheduler is None:
                scheduler = self._schedulers[adapter] = self._loaded(adapter)
            return scheduler

    @property
    def heads(self) -> Heads:
        """The linear layers behind the pooling."""
        from situate.embedders.text.heads import Heads

        with self._lock:
            if self._heads is None:
                folder = self._key.folder
                self._heads = Heads.load(folder.heads, folder.hidden_size, self._key.options)
            return self._heads

    def _loaded(self, adapter: Adapter | None) -> Scheduler:
        from situate.embedders.local.devices import chosen_device, chosen_dtype
        from situate.embedders.local.engine import Engine

        key = self._key
        device = chosen_device(key.device)
        engine = Engine(
            key.folder.path,
            device,
            chosen_dtype(key.dtype, device),
            key.options,
            batch_tokens=key.batch_tokens,
            max_tokens=key.folder.trained_tokens,
            variant=replace(key.variant, adapter=adapter),
            exact=key.exact,
        )
        scheduler = Scheduler(engine, inside=self._inside)
        # The thread must not outlive its model, nor the interpreter.
        weakref.finalize(self, scheduler.close, drain=False)
        return scheduler
