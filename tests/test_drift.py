"""Counts against counts: what is drift, what is chance, and where a profile comes from."""

from __future__ import annotations

import math
import random

import pytest

from understudy.drift import DRIFTED, MOVED, Profile, shift


def test_the_index_is_the_textbooks() -> None:
    before, after = {"a": 5000, "b": 5000}, {"a": 6000, "b": 4000}
    index = (0.6 - 0.5) * math.log(0.6 / 0.5) + (0.4 - 0.5) * math.log(0.4 / 0.5)
    found = shift(before, after)
    assert found.index == pytest.approx(index, rel=1e-3)
    assert found.expected == pytest.approx(1 / 10_000 + 1 / 10_000)
    assert found.excess == pytest.approx(found.index - found.expected)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 6.635), (2, 9.210), (9, 21.666), (99, 134.642)])
def test_the_bound_is_what_chance_exceeds_once_in_a_hundred_times(freedom: int, quantile: float) -> None:
    counts = {str(i): 10 for i in range(freedom + 1)}
    total = 10 * (freedom + 1)
    assert shift(counts, counts).bound / (2 / total) == pytest.approx(quantile, rel=0.02)


def test_windows_without_drift_are_almost_never_called_drifted_however_small() -> None:
    draw = random.Random(7)
    shares = [0.5, 0.2, 0.1, 0.1, 0.06, 0.04]
    alarms = indices = 0.0
    for _ in range(400):
        before, after = (
            {str(label): rows.count(label) for label in range(6)}
            for rows in (draw.choices(range(6), shares, k=300), draw.choices(range(6), shares, k=60))
        )
        found = shift(before, after)
        alarms += found.verdict != "stable"
        indices += found.index / found.expected
    assert alarms <= 12
    assert indices / 400 == pytest.approx(1, abs=0.2)  # what is taken off is what chance gives


def test_a_label_that_takes_over_is_drift_and_a_small_change_is_a_move() -> None:
    before = {"a": 500, "b": 500}
    moved, drifted = shift(before, {"a": 680, "b": 320}), shift(before, {"a": 850, "b": 150})
    assert (moved.verdict, drifted.verdict) == ("moved", "drifted")
    assert MOVED <= moved.excess < DRIFTED <= drifted.excess


def test_a_label_that_was_never_answered_before_is_counted() -> None:
    found = shift({"a": 500, "b": 500}, {"a": 200, "c": 200})
    assert math.isfinite(found.index)
    assert found.verdict == "drifted"


@pytest.mark.parametrize("after", [{}, {"a": 3}, {"a": 3, "b": 46}])
def test_of_few_answers_nothing_is_said(after: dict[str, int]) -> None:
    assert shift({"a": 500, "b": 500}, after).verdict == "too_few"


def test_one_label_alone_cannot_drift() -> None:
    assert shift({"a": 500}, {"a": 500}).verdict == "stable"


def test_a_reports_confusion_gives_the_profile_of_the_answers() -> None:
    report = {"confusion": {"labels": ["no", "yes"], "counts": [[8, 2], [5, 15]], "top": []}}
    profile = Profile.of_report(report)
    assert profile is not None
    assert (profile.rows, profile.labels) == (30, {"no": 13, "yes": 17})


def test_a_reports_own_profile_comes_first() -> None:
    own = Profile(rows=9, labels={"no": 4, "yes": 5}, words_found=7, words_dropped=1)
    confusion = {"labels": ["no", "yes"], "counts": [[8, 2], [5, 15]]}
    assert Profile.of_report({"profile": own.model_dump(), "confusion": confusion}) == own


@pytest.mark.parametrize("report", [{}, {"confusion": None}, {"confusion": {"labels": ["a"] * 200, "counts": None}}])
def test_a_report_without_one_gives_none(report: dict[str, object]) -> None:
    assert Profile.of_report(report) is None
