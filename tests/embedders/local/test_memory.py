"""Memory: weights are there once, batches shrink until they fit, and very many texts do not pile up."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from situate.embedders.forward import linears as _linears
from situate.embedders.local import devices as _devices
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText
from tests.conftest import FULL
from tests.embedders.forward.test_packed import FAMILIES, TEXTS, save

NUMBERS = count(4000, -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(6)
    return save(tmp_path_factory.mktemp("bert"), FAMILIES["bert"][0]())


def vectors(encoder: Encoder, texts: list[str]) -> np.ndarray:
    return np.concatenate([result.vectors for result in encoder.encode([SpanText(text) for text in texts])])


# Weights are there once -----------------------------------------------------------------------------------------------


def test_encoders_that_differ_on_the_host_alone_share_their_weights(folder: Path) -> None:
    base: dict[str, Any] = {"dtype": "float32", "device": "cpu", "batch_tokens": 501}
    plain = Encoder(folder, **base)
    others = [
        Encoder(folder, dimensions=16, **base),
        Encoder(folder, pooling="cls", normalize=False, **base),
        Encoder(folder, max_tokens=20, on_overflow="window", pool_prefix=False, **base),
        Encoder(folder, add_special_tokens=False, **base),
    ]
    engine = plain.scheduler.engine
    assert all(other.scheduler.engine is engine for other in others)
    whole = vectors(plain, TEXTS)
    cut = vectors(others[0], TEXTS)
    np.testing.assert_allclose(cut, whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True), atol=1e-6)
    for settings in ({"dtype": "bfloat16"}, {"layers": 2}, {"batch_tokens": 502}):
        assert Encoder(folder, **{**base, **settings}).scheduler.engine is not engine


@pytest.mark.parametrize("halved", [True, False])
def test_auto_shares_the_weights_of_the_format_that_it_means(
    folder: Path, monkeypatch: pytest.MonkeyPatch, halved: bool
) -> None:
    monkeypatch.setattr(_devices, "cpu_computes_bf16", lambda: False)
    monkeypatch.setattr(_linears, "half_weights_work", lambda: halved)
    base: dict[str, Any] = {"device": "cpu", "batch_tokens": 504}
    auto, named = Encoder(folder, **base), Encoder(folder, dtype="float32", **base)
    assert auto.dtype == named.dtype == "float32"
    assert (auto.scheduler is named.scheduler) != halved


def test_closing_one_leaves_the_others_and_the_last_frees_the_weights(folder: Path) -> None:
    base: dict[str, Any] = {"dtype": "float32", "device": "cpu", "batch_tokens": 503}
    first, second = Encoder(folder, **base), Encoder(folder, dimensions=8, **base)
    wanted = vectors(second, TEXTS)
    assert second.scheduler is first.scheduler
    weights = weakref.ref(first.scheduler.engine.choice.forward)
    first.close()
    np.testing.assert_array_equal(vectors(second, TEXTS), wanted)
    second.close()
    gc.collect()
    assert weights() is None
    assert vectors(first, TEXTS).shape == (len(TEXTS), 64), "it is loaded again"


def test_new_weights_in_the_same_folder_are_not_mistaken_for_the_old(tmp_path: Path) -> None:
    torch.manual_seed(7)
    folder = save(tmp_path, FAMILIES["bert"][0]())
    first = Encoder(folder, dtype="float32", device="cpu")
    before = vectors(first, TEXTS)
    save(tmp_path, FAMILIES["bert"][0]())
    assert np.abs(vectors(Encoder(folder, dtype="float32", device="cpu"), TEXTS) - before).max() > 0.01
    np.testing.assert_array_equal(vectors(first, TEXTS), before)


# Batches shrink -------------------------------------------------------------------------------------------------------


class Scarce:
    """A forward pass on a device that has memory for so many tokens."""

    def __init__(self, forward: Any, tokens: int, error: type[Exception]) -> None:
        self.forward, self.tokens, self.error = forward, tokens, error
        self.passes: list[int] = []

    def __call__(self, ids: torch.Tensor, packing: Any) -> torch.Tensor:
        self.passes.append(len(ids))
        if len(ids) > self.tokens:
            raise self.error(f"{len(ids)} tokens do not fit")
        hidden: torch.Tensor = self.forward(ids, packing)
        return hidden


def make_scarce(engine: Any, tokens: int, error: type[Exception] = torch.OutOfMemoryError) -> Scarce:
    forward = Scarce(engine.choice.forward, tokens, error)
    engine.choice = replace(engine.choice, forward=forward)
    return forward


@pytest.fixture
def scarce(folder: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Encoder, Any]]:
    # A number of its own, and so an engine of its own, since its memory is taken away.
    with Encoder(folder, dtype="float32", device="cpu", batch_tokens=next(NUMBERS)) as encoder:
        yield encoder, encoder.scheduler.engine


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_a_pass_that_does_not_fit_is_halved_until_it_does(scarce: Any, folder: Path, error: Any) -> None:
    encoder, engine = scarce
    engine.cores = None
    texts = [f"{TEXTS[i % 5]} {i}" for i in range(120)]
    wanted = vectors(Encoder(folder, dtype="float32", device="cpu", batch_tokens=777), texts)
    before, passes = engine.batch_tokens, make_scarce(engine, 300, error).passes
    np.testing.assert_allclose(vectors(encoder, texts), wanted, atol=1e-6)
    assert max(passes) > 300
    assert engine.batch_tokens < before
    # A batch size that did not fit once is not tried again.
    passes.clear()
    np.testing.assert_allclose(vectors(encoder, texts), wanted, atol=1e-6)
    assert max(passes) < 1000


def test_a_text_that_never_fits_is_an_error_for_its_caller_alone(scarce: Any) -> None:
    encoder, engine = scarce
    make_scarce(engine, 40)
    with pytest.raises(torch.OutOfMemoryError, match="do not fit"):
        vectors(encoder, [TEXTS[2] * 2])
    assert vectors(encoder, [TEXTS[0]]).shape == (1, 64)


def test_token_vectors_come_in_order_from_halved_passes(scarce: Any, folder: Path) -> None:
    encoder, engine = scarce
    inputs = [SpanText(f"{TEXTS[i % 5]} {i}", ((0, 5), (2, 9))) for i in range(60)]
    apart = Encoder(folder, dtype="float32", device="cpu", batch_tokens=777)
    make_scarce(engine, 200)
    found = encoder.encode(inputs, token_vectors=True)
    for one, two in zip(found, apart.encode(inputs, token_vectors=True), strict=True):
        np.testing.assert_allclose(one.vectors, two.vectors, atol=1e-6)
        for a, b in zip(one.tokens, two.tokens, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


class PassMemory:
    """Memory of one pass, free when nothing refers to it any more."""


class Crowded:
    """A forward pass on a device that has memory for so many tokens, with what failed passes still hold."""

    def __init__(self, forward: Any, tokens: int) -> None:
        self.forward, self.tokens = forward, tokens
        self.held: weakref.WeakKeyDictionary[PassMemory, int] = weakref.WeakKeyDictionary()
        self.failed: list[int] = []

    def __call__(self, ids: torch.Tensor, packing: Any) -> torch.Tensor:
        memory = PassMemory()
        self.held[memory] = len(ids)
        if sum(self.held.values()) > self.tokens:
            self.failed.append(len(ids))
            raise torch.OutOfMemoryError(f"{len(ids)} tokens do not fit")
        hidden: torch.Tensor = self.forward(ids, packing)
        return hidden


def test_a_failed_pass_holds_no_memory_while_its_halves_run(scarce: Any, folder: Path) -> None:
    encoder, engine = scarce
    engine.cores = None
    texts = [f"{TEXTS[i % 5]} {i}" for i in range(120)]
    wanted = vectors(Encoder(folder, dtype="float32", device="cpu", batch_tokens=777), texts)
    crowded = Crowded(engine.choice.forward, 300)
    engine.choice = replace(engine.choice, forward=crowded)
    np.testing.assert_allclose(vectors(encoder, texts), wanted, atol=1e-6)
    assert crowded.failed
    assert min(crowded.failed) > 300, "a pass that fits into an empty device failed"


# Very many texts ------------------------------------------------------------------------------------------------------


def test_very_many_texts_at_once_need_no_memory_beyond_their_vectors(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = 100_000 if FULL else 12_000
    encoder = Encoder(folder, dtype="float32", device="cpu", layers=1)
    inputs = [SpanText(f"barge {i}") for i in range(count)]
    encoder.encode(inputs[:5000])
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    results = encoder.encode(inputs, progress=True)
    grown = process.memory_info().rss - before
    assert len(results) == count
    # 64 numbers of 4 bytes, and what Python adds for an array and a result; token ids and hidden states come and go.
    assert grown < count * 1_000 + 64_000_000
    shown = capsys.readouterr().err
    assert "encoding" in shown
    assert f"{count}/{count}" in shown
    for i in (0, count // 2, count - 1):
        np.testing.assert_allclose(results[i].vectors[0], encoder.encode([inputs[i]])[0].vectors[0], atol=1e-5)
