"""Loading a model without the bars and notes of the libraries that load it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from situate.threads import OwnedLock

_LIBRARIES = ("huggingface_hub", "peft", "sentence_transformers", "transformers")

_quiet: ContextVar[bool] = ContextVar("situate_quiet", default=False)
_lock = OwnedLock("loading")


class _Filter(logging.Filter):
    """Lets warnings and errors through, and everything that is logged outside of a `quietly` block."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or not _quiet.get()


class _Hook:
    """transformers' hook for its progress bars: none in a `quietly` block, the ordinary ones elsewhere."""

    blocks = 0
    previous: Any = None

    def __call__(self, factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _quiet.get():
            from tqdm import tqdm

            return tqdm(*args, **{**kwargs, "disable": True})
        return self.previous(factory, args, kwargs) if self.previous is not None else factory(*args, **kwargs)


_filter, _hook = _Filter(), _Hook()


@contextmanager
def quietly() -> Iterator[None]:
    """No progress bar and no note below a warning from the model libraries, in this thread and for this block alone.

    Neither their verbosity nor the loggers' levels change: other threads' messages are shown as before.
    """
    token = _quiet.set(True)
    _enter()
    try:
        yield
    finally:
        _leave()
        _quiet.reset(token)


def _enter() -> None:
    with _lock:
        _hook.blocks += 1
        transformers = _hooked()
        if transformers is not None and transformers._tqdm_hook is not _hook:
            _hook.previous = transformers.set_tqdm_hook(_hook)
        for logger in _loggers():
            logger.addFilter(_filter)


def _leave() -> None:
    with _lock:
        _hook.blocks -= 1
        if _hook.blocks:
            return
        transformers = _hooked()
        if transformers is not None and transformers._tqdm_hook is _hook:
            transformers.set_tqdm_hook(_hook.previous)
        _hook.previous = None
        for logger in _loggers():
            logger.removeFilter(_filter)


def _hooked() -> Any:
    """transformers' logging, if it is loaded and has a hook: transformers 4 shows its only bar for several files."""
    transformers = sys.modules.get("transformers.utils.logging")
    return transformers if hasattr(transformers, "set_tqdm_hook") else None


def _loggers() -> list[logging.Logger]:
    known = list(logging.root.manager.loggerDict.items())
    return [one for name, one in known if name.partition(".")[0] in _LIBRARIES and isinstance(one, logging.Logger)]
