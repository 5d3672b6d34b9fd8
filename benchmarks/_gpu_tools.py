"""Timing and access to an encoder's engine, for the stages of benchmarks/gpu.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._gpu_run import Settings
from benchmarks.encoder import timed
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText


def engine_of(encoder: Encoder) -> Any:
    """Its engine; loads the model."""
    return encoder.scheduler.engine


def vectors_of(encoder: Encoder, inputs: list[SpanText]) -> np.ndarray:
    """float32 ``[spans, hidden]``, of norm 1."""
    return np.concatenate([result.vectors for result in encoder.encode(inputs)])


def synchronize(settings: Settings) -> None:
    """Wait for the GPU, if there is one."""
    if settings.device == "cuda":
        import torch

        torch.cuda.synchronize()


def seconds_of(settings: Settings, run: Callable[[], object]) -> float:
    """Seconds of one run, several at a time without waiting in between: the median of five measurements."""
    repeats = 1 if settings.smoke else 10

    def several() -> None:
        for _ in range(repeats):
            run()
        synchronize(settings)

    several()
    return statistics.median(timed(several)() for _ in range(1 if settings.smoke else 5)) / repeats
