"""Bytes and bits in the place of floats keep what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from situate.embedders import Int8Quantizer, binarize, hamming_similarity
from situate.errors import InputError


def unit_vectors(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_byte_is_within_half_a_step_and_keeps_the_order():
    sample = unit_vectors(2000, 64)
    quantizer = Int8Quantizer.fit(sample, quantile=1.0)
    codes = quantizer.encode(sample)
    assert codes.dtype == np.int8
    step = (quantizer.high - quantizer.low) / 255
    assert (np.abs(quantizer.decode(codes) - sample) <= step / 2 + 1e-6).all()
    queries = unit_vectors(50, 64, seed=1)
    exact, coarse = queries @ sample.T, queries @ quantizer.decode(codes).T
    overlap = [len(set(np.argsort(-a)[:10]) & set(np.argsort(-b)[:10])) for a, b in zip(exact, coarse, strict=True)]
    assert np.mean(overlap) > 9


def test_an_outlier_does_not_coarsen_the_rest():
    sample = unit_vectors(2000, 8)
    spoiled = sample.copy()
    spoiled[0] = 100
    assert np.abs(Int8Quantizer.fit(spoiled).high - Int8Quantizer.fit(sample).high).max() < 0.2
    assert (Int8Quantizer.fit(sample).encode(spoiled)[0] == 127).all()


def test_a_dimension_that_never_changes_is_kept():
    sample = np.full((10, 3), 0.25, dtype=np.float32)
    quantizer = Int8Quantizer.fit(sample)
    np.testing.assert_allclose(quantizer.decode(quantizer.encode(sample)), sample, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(0, 1000))
def test_bits_count_the_signs_that_agree(dimension, seed):
    vectors = np.random.default_rng(seed).normal(size=(6, dimension)).astype(np.float32)
    bits = binarize(vectors)
    assert bits.shape == (6, -(-dimension // 8))
    signs = vectors > 0
    padding = bits.shape[1] * 8 - dimension
    expected = (signs[:, None] == signs[None]).sum(axis=-1) + padding
    np.testing.assert_array_equal(hamming_similarity(bits, bits), expected)


def test_a_threshold_may_be_calibrated():
    vectors = unit_vectors(101, 16) + 5
    assert binarize(vectors).min() == 255
    bits = np.unpackbits(binarize(vectors, np.median(vectors, axis=0)), axis=1)
    np.testing.assert_array_equal(bits.sum(axis=0), 50)


def test_what_cannot_be_quantised_is_refused():
    sample = unit_vectors(10, 4)
    bad = sample.copy()
    bad[3, 1] = np.nan
    for call in (
        lambda: Int8Quantizer.fit(sample[:1]),
        lambda: Int8Quantizer.fit(sample, quantile=0.2),
        lambda: Int8Quantizer.fit(bad),
        lambda: Int8Quantizer.fit(sample).encode(bad),
        lambda: Int8Quantizer.fit(sample).encode(unit_vectors(2, 5)),
        lambda: binarize(bad),
    ):
        with pytest.raises(InputError):
            call()
