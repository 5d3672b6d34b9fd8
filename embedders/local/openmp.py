"""No team of OpenMP threads left behind.

OpenMP gives every thread that computes a team of its own, and keeps it until that thread computes again or ends. GNU's
OpenMP, which torch uses on Linux, counts them all: as soon as they are more than the cores, whether they work or not,
no team waits awake for its next operator, and having to be woken some hundred times makes a query half as slow again.
One team of the thread that indexed beside one of the thread that asks is enough for that, and a server's threads have
many. So whoever has computed lets go of its team. Having one made again for the next pass costs a query about a
fourteenth of its time, which a program that asks from its main thread alone is spared.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

#: `omp_pause_soft` of the OpenMP standard (5.0, section 3.2.46).
_PAUSE_SOFT = 1
#: After so many passes with no other thread's between them the main thread keeps its team: more than the warming up of
#: a server whose own threads will ask. Another thread's pass ends that, as soon as the main thread has computed again.
_PASSES_ALONE = 32


class _InARow:
    """Passes of the main thread since another thread's; that threads overwrite each other's number is harmless."""

    passes = 0


@contextmanager
def computing() -> Iterator[None]:
    """`torch.inference_mode`, and `dismiss_team` after it."""
    try:
        with torch.inference_mode():
            yield
    finally:
        dismiss_team()


def dismiss_team() -> None:
    """End the calling thread's team of OpenMP threads, unless it is the main thread, which has long been alone."""
    _InARow.passes = _InARow.passes + 1 if threading.current_thread() is threading.main_thread() else 0
    if _InARow.passes <= _PASSES_ALONE:
        _dismiss()()


@lru_cache(maxsize=1)
def _dismiss() -> Callable[[], object]:
    try:
        # GNU's library under its own name, and only if it is in the process already: others do not count the teams.
        library = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
        pause, device = library.omp_pause_resource, library.omp_get_initial_device()
    except (OSError, AttributeError):  # no Linux, another OpenMP, or one from before 5.0
        return lambda: None
    return lambda: pause(_PAUSE_SOFT, device)
