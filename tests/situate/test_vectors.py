"""Unit vectors, mean directions and finite checks, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from situate.batches import in_batches
from situate.errors import InputError, NonFiniteVectorError
from situate.vectors import check_finite, direction, mean_direction, unit


def test_unit_vectors_have_norm_one_and_zero_stays_zero() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32) * np.float32(40)
    rows[2] = 0
    wanted = rows.astype(np.float64)
    wanted[[0, 1, 3, 4]] /= np.linalg.norm(wanted[[0, 1, 3, 4]], axis=1, keepdims=True)
    for found in (unit(rows), np.stack([unit(row) for row in rows]), unit(rows[None])[0]):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert unit(np.zeros((0, 7), dtype=np.float32)).shape == (0, 7)


def test_a_vector_without_direction_becomes_the_given_one() -> None:
    other = np.array([0, 1], dtype=np.float32)
    np.testing.assert_array_equal(direction(np.array([3.0, 4.0]), other), np.array([0.6, 0.8], dtype=np.float32))
    np.testing.assert_array_equal(direction(np.array([1e-12, 0.0]), other), other)


def test_the_mean_direction_weighs_its_vectors() -> None:
    rows = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    wanted = np.average(rows.astype(np.float64), axis=0, weights=[1, 0.5, 0])
    found = mean_direction(rows, [1, 0.5, 0])
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-7)
    np.testing.assert_array_equal(mean_direction(np.stack([rows[0], -rows[0]]), [1, 1]), unit(rows[0]))
    for weights in ([1], [1, -1, 0], [0, 0, 0], [1, np.nan, 0]):
        with pytest.raises(InputError, match="weight"):
            mean_direction(rows, weights)


def test_a_number_that_is_not_finite_is_named_by_its_row() -> None:
    check_finite([1.0, 2.0], "x holds")
    check_finite(np.zeros((0, 3)), "x holds")
    rows = np.ones((4, 3), dtype=np.float32)
    rows[2, 1] = np.inf
    with pytest.raises(NonFiniteVectorError, match=r"model 'm' computed NaN or infinity in row 2: .*float32"):
        check_finite(rows, "model 'm' computed")
    with pytest.raises(NonFiniteVectorError, match="x holds NaN or infinity:"):
        check_finite([float("nan")], "x holds")


def test_batches_hold_every_item_once_in_order() -> None:
    for count in range(8):
        assert [item for batch in in_batches(range(count), 3) for item in batch] == list(range(count))
    assert [len(batch) for batch in in_batches(iter(range(7)), 3)] == [3, 3, 1]
