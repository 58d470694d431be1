"""Is one arm better than another? A paired bootstrap over examples and seeds, and a verdict in words. Pure numpy.

Two arms answered the same examples, so they are compared example by example: what is hard for both cancels out. With
several seeds the seeds are drawn again as well, so that the interval speaks of the recipe and not of lucky runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["MARGIN", "RULE", "Difference", "Verdict", "compare", "mcnemar", "mean_interval", "verdict"]

Verdict = Literal["BEATS", "DOES NOT BEAT", "INCONCLUSIVE"]

RESAMPLES = 10_000
_BLOCK = 500  # resamples drawn at once: bounds the memory for many seeds on a large test split
CONFIDENCE = 0.95
MARGIN = 0.01
"""The smallest gain worth having, in accuracy: one point."""

RULE = (
    f"BEATS: the whole {100 * CONFIDENCE:.0f} % interval of the difference lies above zero. "
    f"DOES NOT BEAT: the interval ends below {100 * MARGIN:g} point, so any gain worth having is excluded. "
    "INCONCLUSIVE: neither; these data cannot tell."
)

IMAGINED = ((-1.0, 1.0), (0.0, 1.0))
"""What two imagined examples say of a difference and of an accuracy: one for, one against (Bonett and Price 2012).

Resamples of fifty examples on which two arms never differ never differ either, and would exclude every gain."""

Right = Mapping[int, Sequence[bool]]  # seed -> whether each test example was answered rightly


@dataclass(frozen=True)
class Difference:
    """Accuracy of one arm minus that of another, with its interval. `p` is McNemar's, where both ran one seed."""

    difference: float
    low: float
    high: float
    seeds: int
    p: float | None = None

    @property
    def verdict(self) -> Verdict:
        return verdict(self.low, self.high)


def verdict(low: float, high: float) -> Verdict:
    """Apply RULE to an interval."""
    if low > 0:
        return "BEATS"
    return "DOES NOT BEAT" if high < MARGIN else "INCONCLUSIVE"


def compare(arm: Right, against: Right, seed: int = 0) -> Difference:
    """The paired difference of two arms, over the seeds that both ran. `seed` is the bootstrap's own."""
    shared = sorted(set(arm) & set(against))
    if not shared:
        raise ValueError("the arms share no seed, so there is nothing to pair")
    ours, theirs = (np.array([one[seed] for seed in shared], dtype=np.int8) for one in (arm, against))
    paired = (ours - theirs).astype(np.float64)  # (S, N): 1, 0 or -1
    low, high = _interval(paired, seed, IMAGINED[0])
    p = mcnemar(ours[0], theirs[0]) if len(shared) == 1 else None
    return Difference(float(paired.mean()), low, high, len(shared), p)


def mean_interval(right: Right, seed: int = 0) -> tuple[float, float, float]:
    """An arm's accuracy over its seeds and examples, with the interval of the same bootstrap."""
    values = np.array([right[one] for one in sorted(right)], dtype=np.float64)  # (S, N)
    return float(values.mean()), *_interval(values, seed, IMAGINED[1])


def _interval(values: NDArray[np.float64], seed: int, imagined: tuple[float, float]) -> tuple[float, float]:
    """The percentile interval of the mean of (S, N) values when examples and seeds are both drawn again.

    Two examples are imagined beside the real ones; the mean of the real ones is always inside.

    Examples with the same column are exchangeable, so it is enough to draw how often each *distinct* column comes up:
    the same distribution as drawing N indices, at a cost that does not grow with N.
    """
    seeds, examples = values.shape
    if examples == 0:
        return 0.0, 0.0
    random = np.random.default_rng(seed)
    beside = np.hstack([_widened(values), np.tile(imagined, (seeds, 1))])  # (S, N + 2)
    columns, counts = np.unique(beside, axis=1, return_counts=True)  # (S, P), (P,)
    examples = counts.sum()
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, _BLOCK):
        example_weights = random.multinomial(examples, counts / examples, size=_BLOCK) / examples  # (R, P)
        seed_weights = random.multinomial(seeds, [1 / seeds] * seeds, size=_BLOCK) / seeds  # (R, S)
        means[start : start + _BLOCK] = ((example_weights @ columns.T) * seed_weights).sum(-1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    low, high = min(low, values.mean()), max(high, values.mean())
    return round(float(low), 12), round(float(high), 12)  # an interval that ends at 0 must not end at 1e-18


def _widened(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move each seed's mean away from the grand mean by sqrt(S / (S - 1)), which leaves the grand mean where it is.

    Drawing S seeds from S shows only (S - 1) / S of the variance between seeds; with two or three seeds that differ
    the interval would be too narrow. Where seeds agree this makes it a little too wide, which errs to INCONCLUSIVE.
    """
    seeds = len(values)
    if seeds == 1:
        return values
    deviation: NDArray[np.float64] = values.mean(axis=1, keepdims=True) - values.mean()
    return values + (math.sqrt(seeds / (seeds - 1)) - 1) * deviation


def mcnemar(ours: Sequence[bool] | NDArray[np.int8], theirs: Sequence[bool] | NDArray[np.int8]) -> float:
    """Exact two-sided p: how surprising the split of the examples that only one of the two got right is."""
    first, second = np.asarray(ours, dtype=bool), np.asarray(theirs, dtype=bool)
    only_ours, only_theirs = int((first & ~second).sum()), int((second & ~first).sum())
    total, fewer = only_ours + only_theirs, min(only_ours, only_theirs)
    tail: int = sum(math.comb(total, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**total) if total else 1.0
