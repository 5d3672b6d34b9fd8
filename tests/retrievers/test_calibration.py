"""Thresholds equal a search over all of them; intervals tell how sure they are."""

from __future__ import annotations

import numpy as np
import pytest

from situate.errors import InputError
from situate.retrievers.calibration import Labelled, calibrate


def sample(queries, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Labelled(float(rng.normal(0.7 if relevant else 0.3, 0.15)), bool(relevant), f"query {i}")
        for i in range(queries)
        for relevant in (1, 0, 0)
    ]


def measures(labelled, threshold):
    kept = [hit for hit in labelled if hit.score >= threshold]
    right = sum(hit.relevant for hit in kept)
    precision = right / len(kept) if kept else 1.0
    recall = right / sum(hit.relevant for hit in labelled)
    return precision, recall, 2 * precision * recall / (precision + recall) if right else 0.0


def test_f1_equals_the_best_of_all_thresholds():
    labelled = sample(30)
    found = calibrate(labelled, resamples=50)
    best = max(measures(labelled, hit.score)[2] for hit in labelled)
    assert found.f1 == pytest.approx(best)
    assert (found.precision, found.recall, found.f1) == pytest.approx(measures(labelled, found.threshold))


@pytest.mark.parametrize("at_least", [0.5, 0.8, 1.0])
def test_precision_keeps_as_much_as_it_can(at_least):
    labelled = sample(30)
    found = calibrate(labelled, goal="precision", at_least=at_least, resamples=50)
    reaching = [measures(labelled, hit.score)[1] for hit in labelled if measures(labelled, hit.score)[0] >= at_least]
    assert found.precision >= at_least
    assert found.recall == pytest.approx(max(reaching))


@pytest.mark.parametrize("at_least", [0.5, 0.9, 1.0])
def test_recall_keeps_as_little_as_it_can(at_least):
    labelled = sample(30)
    found = calibrate(labelled, goal="recall", at_least=at_least, resamples=50)
    assert found.recall >= at_least
    above = [hit.score for hit in labelled if hit.score > found.threshold]
    assert measures(labelled, sorted(above)[1])[1] < at_least


def test_threshold_lies_between_scores():
    labelled = [Labelled(0.9, True), Labelled(0.2, False)]
    assert calibrate(labelled, resamples=10).threshold == pytest.approx(0.55)


def test_equal_scores_are_kept_or_left_together():
    labelled = [Labelled(0.5, True), Labelled(0.5, False), Labelled(0.1, False)]
    found = calibrate(labelled, resamples=10)
    assert (found.precision, found.recall) == (0.5, 1.0)


def test_more_queries_make_the_interval_narrower_and_it_holds_the_truth():
    def width(queries):
        found = calibrate(sample(queries, seed=3), resamples=200)
        low, high = found.interval
        assert low <= high
        return high - low

    assert width(400) < width(12)
    low, high = calibrate(sample(400, seed=4), goal="recall", at_least=0.9, resamples=200).recall_interval
    assert low <= 0.9 <= high


def test_the_bootstrap_draws_whole_queries():
    rng = np.random.default_rng(5)
    dependent = []
    for i in range(12):
        level = rng.normal(0, 0.3)  # the common level of a query's hits
        dependent += [Labelled(float(0.6 * r + level + rng.normal(0, 0.02)), r, f"q{i}") for r in (True, False) * 8]
    by_query = calibrate(dependent, resamples=300).precision_interval
    as_if_independent = calibrate([Labelled(h.score, h.relevant) for h in dependent], resamples=300).precision_interval
    assert by_query[1] - by_query[0] > as_if_independent[1] - as_if_independent[0]


def test_same_data_same_result():
    assert calibrate(sample(20), resamples=50) == calibrate(sample(20), resamples=50)


def test_one_query_is_calibrated_without_claiming_certainty_of_others():
    labelled = [Labelled(0.9, True, "q"), Labelled(0.2, False, "q")]
    assert calibrate(labelled, resamples=20).interval == pytest.approx((0.55, 0.55))


GOOD = [Labelled(0.9, True), Labelled(0.2, False)]


@pytest.mark.parametrize(
    ("labelled", "arguments", "message"),
    [
        ([], {}, "both kinds"),
        ([Labelled(0.9, True)], {}, "both kinds"),
        ([Labelled(0.9, False)], {}, "both kinds"),
        ([*GOOD, Labelled(float("nan"), True)], {}, "NaN"),
        (GOOD, {"goal": "accuracy"}, "goal"),
        (GOOD, {"goal": "precision"}, "at_least"),
        (GOOD, {"at_least": 0.5}, "at_least"),
        (GOOD, {"goal": "recall", "at_least": 1.5}, "at_least"),
        (GOOD, {"resamples": 0}, "resamples"),
        (GOOD, {"confidence": 1.0}, "confidence"),
        ([Labelled(0.1, True), Labelled(0.2, False)], {"goal": "precision", "at_least": 0.9}, "no threshold reaches"),
    ],
)
def test_bad_input(labelled, arguments, message):
    with pytest.raises(InputError, match=message):
        calibrate(labelled, **arguments)
