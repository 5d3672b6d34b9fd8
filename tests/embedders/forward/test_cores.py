"""A pass dealt out to several cores: same results, errors heard, torch's own settings left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from situate.embedders.forward.chooser import is_reentrant
from situate.embedders.forward.cores import CorePool, CrowdRule, preemptions
from situate.embedders.forward.packing import Packing
from situate.embedders.local.encoder import Encoder
from situate.embedders.models.resolve import LoadOptions
from situate.embedders.types import SpanText


@given(st.integers(1, 8), st.lists(st.integers(1, 600), min_size=1, max_size=60))
def test_shares_hold_every_sequence_once_and_evenly(size: int, lengths: list[int]) -> None:
    lengths.sort(reverse=True)
    shares = CorePool(size).shares(lengths)
    assert sorted(row for share in shares for row in share) == list(range(len(lengths)))
    assert all(share == sorted(share) for share in shares), "the longest first, as a pass wants them"
    assert 1 <= len(shares) <= size
    tokens = [sum(lengths[row] for row in share) for share in shares]
    assert max(tokens) - min(tokens) <= max(lengths)
    if len(shares) > 1:
        assert sum(tokens) >= 128 * len(shares)


def test_one_long_sequence_is_not_left_to_one_core() -> None:
    assert len(CorePool(2).shares([8000, 40, 40])) == 1
    assert len(CorePool(2).shares([500, 480])) == 2
    assert len(CorePool(2).shares([60, 50])) == 1, "too little to hand over"


def test_tasks_run_at_the_same_time_with_one_core_each() -> None:
    pool = CorePool(3)
    before = torch.get_num_threads()
    together = threading.Barrier(3, timeout=20)
    cores: list[int] = []

    def task() -> None:
        together.wait()
        cores.append(torch.get_num_threads())

    pool.map([task] * 3)
    assert cores == [1, 1, 1]
    seen: list[int] = []
    fresh = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    assert [torch.get_num_threads(), *seen] == [before, before]


def test_a_pass_that_lost_its_core_again_and_again_is_followed_by_passes_on_one_core() -> None:
    """A busy machine is simulated by the operating system's count of preemptions."""
    taken, now = iter([0, 0, 5, 50, 50, 99, 99, 99, 99, 150]), [100.0]
    rule = CrowdRule(times=6, times_a_second=0, first_wait=8, longest_wait=16)
    pool = CorePool(2, cores="adaptive", rule=rule, count=lambda: next(taken), clock=lambda: now[0])
    cores: list[tuple[bool, int]] = []
    all_of_them = torch.get_num_threads()

    def task() -> None:
        cores.append((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))

    for _ in range(4):
        pool.run_alone(task)  # the core is taken 0 times, then 45 times
    assert cores == [(True, all_of_them)] * 2 + [(False, 1)] * 2
    now[0] += 8
    pool.run_alone(task)
    assert cores[-1] == (True, all_of_them), "it tries again"
    now[0] += 15
    assert pool.crowded, "and waits longer if that goes wrong, too"
    now[0] += 1
    pool.run_alone(task)
    assert not pool.crowded
    pool.run_alone(task)
    assert pool.crowded
    now[0] += 8
    assert not pool.crowded, "once it went well, the next wait is short again"

    def fails() -> None:
        raise ValueError("a text that the model cannot read")

    now[0] -= 1
    assert pool.crowded
    with pytest.raises(ValueError, match="cannot read"):
        pool.run_alone(fails)


def test_a_core_taken_now_and_then_in_a_long_pass_is_no_crowd() -> None:
    for length, crowded in ((0.4, False), (0.3, True)):
        taken, times = iter([0, 9]), iter([0, 0, length, length])
        rule = CrowdRule(times=6, times_a_second=25)
        pool = CorePool(2, "adaptive", rule=rule, count=lambda: next(taken), clock=lambda: next(times))  # noqa: B023
        pool.run_alone(lambda: None)
        assert pool.crowded == crowded


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts it by thread")
def test_the_operating_system_counts_the_times_that_a_core_was_taken() -> None:
    """Two busy processes on one core take it from each other."""
    counts: list[int] = []

    def share_a_core() -> None:
        core = min(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})  # of this thread, and of what it starts
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            before, end = preemptions(), time.monotonic() + 20
            while preemptions() == before and time.monotonic() < end:
                pass
            counts.append(preemptions() - before)
        finally:
            other.kill()
            other.wait()

    thread = threading.Thread(target=share_a_core)
    thread.start()
    thread.join()
    assert counts[0] > 0


def test_all_tasks_end_before_the_first_error_is_raised() -> None:
    ended: list[int] = []

    def fails() -> None:
        raise ValueError("a text that the model cannot read")

    pool = CorePool(2)
    with pytest.raises(ValueError, match="cannot read"):
        pool.map([fails, *(lambda: ended.append(1) for _ in range(5))])
    assert len(ended) == 5
    pool.map([lambda: ended.append(1)] * 2)
    assert len(ended) == 7, "it goes on after an error"


@pytest.mark.parametrize("reduction", ["sum", "kept"])
def test_dealt_out_vectors_equal_those_of_one_core(
    minilm_path: str, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["the", "river", "bends", "twice", "before", "an", "old", "mill", "and", "its", "wheel", "of", "oak"]
    generator = np.random.default_rng(0)
    texts = [SpanText(" ".join(generator.choice(words, int(n)))) for n in generator.integers(3, 200, 16)]
    encoder = Encoder(minilm_path, device="cpu", dtype="float32")
    alone = Encoder(minilm_path, device="cpu", dtype="float32", batch_tokens=3000)  # so that it is loaded apart
    monkeypatch.setattr(encoder.scheduler.engine, "cores", CorePool(3))
    monkeypatch.setattr(alone.scheduler.engine, "cores", None)
    if reduction == "sum":
        for got, wanted in zip(encoder.encode(texts), alone.encode(texts), strict=True):
            np.testing.assert_allclose(got.vectors, wanted.vectors, atol=2e-6)
    else:
        for got, wanted in zip(
            encoder.encode(texts, token_vectors=True), alone.encode(texts, token_vectors=True), strict=True
        ):
            for a, b in zip(got.tokens, wanted.tokens, strict=True):
                np.testing.assert_allclose(a, b, atol=2e-5)


def test_memory_that_does_not_suffice_halves_a_share(minilm_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [SpanText(f"the {n} seven barges passed the lock beside the mill " * 12) for n in range(12)]
    encoder = Encoder(minilm_path, device="cpu", dtype="float32", batch_tokens=3072)  # loaded apart: it shrinks
    wanted = encoder.encode(texts)
    engine = encoder.scheduler.engine
    monkeypatch.setattr(engine, "cores", CorePool(2))
    choice, budget = engine.choice, engine.batch_tokens

    def short_of_memory(ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        if len(packing.lengths) > 1:
            raise torch.OutOfMemoryError("no memory for more than one")
        return choice.forward(ids, packing)

    monkeypatch.setattr(engine, "choice", replace(choice, forward=short_of_memory))
    for got, one in zip(encoder.encode(texts), wanted, strict=True):
        np.testing.assert_allclose(got.vectors, one.vectors, atol=2e-6)
    assert engine.batch_tokens < budget


def test_models_that_remember_lengths_or_bring_their_own_code_have_one_thread_inside(tmp_path: Path) -> None:
    from transformers import Qwen3Config, Qwen3Model

    def model(rope: dict[str, object]) -> Qwen3Model:
        return Qwen3Model(
            Qwen3Config(
                vocab_size=50,
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=16,
                rope_parameters=rope,
            )
        )

    plain = model({"rope_type": "default", "rope_theta": 10000.0})
    assert is_reentrant(plain)
    assert not is_reentrant(plain, LoadOptions(trust_remote_code=True))
    assert not is_reentrant(model({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}))
