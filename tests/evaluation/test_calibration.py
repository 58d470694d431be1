"""Calibration of answers whose errors can be added up by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from understudy.evaluation.calibration import calibration


def test_the_error_of_two_bins_is_their_mean_gap() -> None:
    # Two bins of twenty: 0.6 given and 10 of 20 right, 0.9 given and 19 of 20 right. Gaps 0.1 and 0.05.
    probabilities = [0.9, 0.6] * 20
    right = [True] * 38 + [False] * 2
    right[1:21:2] = [False] * 10  # ten of those with 0.6; the two at the end are one of each
    found = calibration("student", probabilities, right, seed=2)
    low, high = found.bins
    assert (low.rows, low.confidence, low.accuracy) == (20, pytest.approx(0.6), pytest.approx(9 / 20))
    assert (high.rows, high.confidence, high.accuracy) == (20, pytest.approx(0.9), pytest.approx(19 / 20))
    assert found.ece == pytest.approx((abs(0.6 - 0.45) + abs(0.9 - 0.95)) / 2)
    brier = 9 * 0.4**2 + 11 * 0.6**2 + 19 * 0.1**2 + 1 * 0.9**2
    assert found.brier == pytest.approx(brier / 40)
    assert (found.confidence, found.accuracy) == (pytest.approx(0.75), pytest.approx(28 / 40))


def test_bins_hold_as_many_rows_each() -> None:
    probabilities = np.random.default_rng(0).uniform(0.3, 1, 505).tolist()
    bins = calibration("student", probabilities, [True] * 505).bins
    assert sorted({one.rows for one in bins}) == [50, 51]
    assert [one.confidence for one in bins] == sorted(one.confidence for one in bins)


def test_few_rows_make_few_bins() -> None:
    assert [one.rows for one in calibration("student", [0.5] * 7, [True] * 7).bins] == [7]


def test_a_calibrated_model_shows_what_luck_would() -> None:
    random = np.random.default_rng(1)
    probabilities = random.uniform(0.4, 1, 2000)
    honest = calibration("honest", probabilities.tolist(), (random.random(2000) < probabilities).tolist())
    boasting = calibration("boasting", probabilities.tolist(), (random.random(2000) < probabilities - 0.2).tolist())
    assert honest.ece == pytest.approx(honest.ece_if_calibrated, abs=0.015)
    assert boasting.ece == pytest.approx(0.2, abs=0.03)
    assert boasting.ece_if_calibrated < 0.03


def test_luck_is_the_same_however_many_draws_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities = np.random.default_rng(2).uniform(0.4, 1, 700).tolist()
    found = calibration("student", probabilities, [True] * 700)
    for at_once in (1, 3 * 700, 10**9):
        monkeypatch.setattr("understudy.evaluation.calibration._AT_ONCE", at_once)
        assert calibration("student", probabilities, [True] * 700) == found


def test_memory_does_not_grow_with_the_test_split() -> None:
    """All draws at once would take 5 kB a row: 100 MB here."""
    probabilities = np.random.default_rng(3).uniform(0.4, 1, 20_000).tolist()
    tracemalloc.start()
    calibration("student", probabilities, [True] * 20_000)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 40e6
