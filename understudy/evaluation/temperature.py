"""One number that makes a model's probabilities honest: temperature scaling (Guo et al. 2017, arXiv 1706.04599).

Log-probabilities over the candidates are divided by a temperature before they are normalised again. No answer changes
by that, for any temperature above 0: only how sure the model says that it is. The temperature is fitted on validation
rows, which chose the model already, and what it does is measured on the test split, where nothing is. Pure numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEWEST", "fit_temperature", "likelihood"]

FEWEST = 30
"""Rows below which nothing is fitted: a handful of rows that are all right would make a model sure of everything."""

Numbers = NDArray[np.float64]

_BEYOND_CHANCE = 3.841  # the 95 % point of chi-squared with one degree of freedom (Wilks 1938)
_MOST = 20.0  # a temperature stays between 1 / 20 and 20: of rows that are all wrong any higher one is better still
_LEAST_LOG = math.log(1e-300)  # a probability of 0 is one that was too small for its format
_STEPS = 60  # of bisection: far below what a double can tell apart


def fit_temperature(rows: Sequence[Mapping[str, float]], expected: Sequence[str]) -> float | None:
    """The temperature that makes the expected answers likeliest, of each row's probabilities over its candidates.

    Rows whose expected answer is none of their candidates are left out. None where fewer than 30 are left, or where
    it makes them likelier than 1 does by no more than chance would (a likelihood-ratio test at 5 %, which is up to 8 %
    where few errors are expected): fitted to noise, it would make honest probabilities worse. The likelihood is concave
    in 1 / temperature, so that its one maximum is where the slope changes its sign.

    Of rows without an error any lower temperature is better still, and no test is one at a maximum that lies beyond
    all bounds: probabilities as sure as that cost a lot at the first error. So where the rows ask for less than 1, two
    imagined ones are fitted beside them, one right and one wrong. Of n right rows of one confidence that makes
    (n + 1) / (n + 2), Platt's target (1999). What chance would give is asked of the real rows alone. A temperature
    above 1 needs no such guard: the worst that it can do is to say that all candidates are alike.
    """
    kept = [(row, answer) for row, answer in zip(rows, expected, strict=True) if answer in row]
    if len(kept) < FEWEST:
        return None
    logs = _padded([row for row, _ in kept])  # (N, C)
    expected_logs = np.array([_log(row[answer]) for row, answer in kept])  # (N,)
    surer = _slope(logs, expected_logs, 1) > 0
    sharpness = _sharpness(*(_beside_imagined(logs, expected_logs) if surer else (logs, expected_logs)))
    gain = _mean_log(logs, expected_logs, sharpness) - _mean_log(logs, expected_logs, 1)
    return 1 / sharpness if 2 * len(kept) * gain > _BEYOND_CHANCE else None


def likelihood(rows: Sequence[Mapping[str, float]], expected: Sequence[str]) -> float:
    """The mean negative log-probability of the expected answers, in nats, of rows that have them as a candidate."""
    losses = [-_log(row[answer]) for row, answer in zip(rows, expected, strict=True) if answer in row]
    return float(np.mean(losses)) if losses else 0.0


def _sharpness(logs: Numbers, expected: Numbers) -> float:
    """The 1 / temperature that makes the expected answers likeliest: (N, C), (N,) -> one number."""
    low, high = 1 / _MOST, _MOST
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        if _slope(logs, expected, middle) > 0:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def _beside_imagined(logs: Numbers, expected: Numbers) -> tuple[Numbers, Numbers]:
    """The rows, and two imagined ones with the candidates of the row of median confidence: (N, C), (N,) -> two more.

    One of them is right, of the other the second likeliest candidate is.
    """
    ranked = np.sort(logs, axis=1)[:, ::-1]  # (N, C), the likeliest first
    ranked = ranked[ranked[:, 1] > -np.inf]  # a row with one candidate is always right
    median = ranked[np.argsort(ranked[:, 0])[len(ranked) // 2]]  # (C,)
    return np.vstack([logs, median, median]), np.append(expected, median[:2])


def _mean_log(logs: Numbers, expected: Numbers, sharpness: float) -> float:
    """The mean log-probability of the expected answers at 1 / temperature: (N, C), (N,) -> one number, in nats."""
    highest = logs.max(axis=1)
    sums = np.exp(sharpness * (logs - highest[:, None])).sum(axis=1)
    return float((sharpness * (expected - highest) - np.log(sums)).mean())


def _slope(logs: Numbers, expected: Numbers, sharpness: float) -> float:
    """How the mean log-probability of the expected answers grows with 1 / temperature: (N, C), (N,) -> one number."""
    weights = np.exp(sharpness * (logs - logs.max(axis=1, keepdims=True)))  # 0 at padding
    means = (weights * np.where(weights > 0, logs, 0)).sum(axis=1) / weights.sum(axis=1)
    return float((expected - means).mean())


def _padded(rows: Sequence[Mapping[str, float]]) -> Numbers:
    """Log-probabilities (N, C) of rows with unequally many candidates, -inf where a row has no more."""
    logs = np.full((len(rows), max(map(len, rows))), -np.inf)
    for place, row in enumerate(rows):
        logs[place, : len(row)] = [_log(value) for value in row.values()]
    return logs


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else _LEAST_LOG
