"""No team of OpenMP threads left behind.

OpenMP gives every thread that computes a team of its own, and keeps it until that thread computes again or ends. GNU's
OpenMP, which torch uses on Linux, counts them all: as soon as they are more than the cores, whether they work or not,
no team waits awake for its next operator, and having to be woken some hundred times makes a query half as slow again.
One team of the thread that indexed beside one of the thread that asks is enough for that, and a server's threads have
many. So whoever has computed lets go of its team; the next pass's team costs a tenth of a millisecond.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

#: `omp_pause_soft` of the OpenMP standard (5.0, section 3.2.46).
_PAUSE_SOFT = 1


@contextmanager
def computing() -> Iterator[None]:
    """`torch.inference_mode`, after which the calling thread has no team."""
    try:
        with torch.inference_mode():
            yield
    finally:
        dismiss_team()


def dismiss_team() -> None:
    """End the calling thread's team of OpenMP threads, if it has one and nobody is in it."""
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
