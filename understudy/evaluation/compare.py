"""Is one arm better than another? A paired bootstrap over examples and seeds, and a verdict in words. Pure numpy.

Two arms answered the same examples, so they are compared example by example: what is hard for both cancels out. With
several seeds the seeds are drawn again as well, so that the interval speaks of the recipe and not of lucky runs. (Rows
and columns drawn again, each on its own: the pigeonhole bootstrap, Owen 2007, which errs to wide intervals.)

The verdict is the interval's. Beside it stands a p-value with heavier tails, min F' (Clark 1973), because a correction
for many comparisons asks about the far tail, of which three seeds drawn again know nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MARGIN",
    "RULE",
    "SIGNIFICANCE",
    "Difference",
    "Right",
    "Verdict",
    "cohens_h",
    "compare",
    "holm",
    "mcnemar",
    "mean_interval",
    "min_f",
    "student_tail",
    "verdict",
]

Verdict = Literal["BEATS", "DOES NOT BEAT", "INCONCLUSIVE"]

RESAMPLES = 10_000
_BLOCK = 500  # resamples drawn at once: bounds the memory for many seeds on a large test split
CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
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

Right = Mapping[int, Sequence[float]]  # seed -> whether each test example was answered rightly, or a figure for it


@dataclass(frozen=True)
class Difference:
    """Accuracy of one arm minus that of another, with its interval over `seeds` seeds and the test examples.

    `p` is that of min F' (`min_f`). `mcnemar` is one exact p for each seed, in their order: it speaks of those two
    models and not of their recipes (Dietterich 1998). `error_reduction` is the share of the other arm's errors that is
    gone, None where it made none. `cohens_h` is the difference on a scale where a point counts for more near 0 and 1.
    """

    difference: float
    low: float
    high: float
    seeds: int
    p: float | None = None
    mcnemar: tuple[float, ...] = ()
    error_reduction: float | None = None
    cohens_h: float | None = None

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
    ours, theirs = (np.array([one[seed] for seed in shared], dtype=np.float64) for one in (arm, against))
    paired = ours - theirs  # (S, N): 1, 0 or -1
    low, high = _interval(paired, seed, IMAGINED[0])
    first, second = float(ours.mean()), float(theirs.mean())
    return Difference(
        difference=float(paired.mean()),
        low=low,
        high=high,
        seeds=len(shared),
        p=min_f(paired),
        mcnemar=tuple(mcnemar(one, other) for one, other in zip(ours, theirs, strict=True)),
        error_reduction=(first - second) / (1 - second) if second < 1 else None,
        cohens_h=cohens_h(first, second),
    )


def min_f(paired: NDArray[np.float64]) -> float:
    """Two-sided p of the mean of (S, N) paired differences, with examples and seeds both random: Clark's min F' (1973).

    t^2 = mean^2 / (V_examples + V_seeds), where V_examples is the variance of the N example means divided by N and
    V_seeds that of the S seed means divided by S; degrees of freedom after Satterthwaite (1946). The interaction counts
    in both variances, which errs to large p. With one seed it is a paired t-test over the examples alone. The two
    imagined examples take part in V_examples, so that arms that never differ have a variance too.
    """
    seeds, examples = paired.shape
    if examples == 0:
        return 1.0
    beside = np.hstack([paired, np.tile(IMAGINED[0], (seeds, 1))])  # (S, N + 2)
    by_example = float(beside.mean(axis=0).var(ddof=1)) / (examples + 2)
    by_seed = float(paired.mean(axis=1).var(ddof=1)) / seeds if seeds > 1 else 0.0
    variance = by_example + by_seed
    freedom = variance**2 / (by_example**2 / (examples + 1) + (by_seed**2 / (seeds - 1) if seeds > 1 else 0.0))
    return student_tail(abs(float(paired.mean())) / math.sqrt(variance), max(1, int(freedom + 1e-9)))


def student_tail(t: float, freedom: int) -> float:
    """P(|T| >= t) of Student's t with a whole number of degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 4).

    From 1,000 degrees on it is the normal tail, which differs by less than a thousandth of its own value at p = 0.05.
    """
    if freedom >= 1000:
        return math.erfc(t / math.sqrt(2))
    angle = math.atan2(t, math.sqrt(freedom))
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for step in range(odd, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (step + 1) / (step + 2)
    inside = math.sin(angle) * total
    return max(0.0, 1 - (2 / math.pi * (angle + inside) if odd else inside))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: that any claim at or below 0.05 is wrong is then no likelier than 5 %.

    Holm (1979): the smallest times m, the next times m - 1 and so on, never below the one before, never above 1. No
    assumption on how the comparisons depend on each other, which here share arms and test examples.
    """
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def cohens_h(first: float, second: float) -> float:
    """2 asin sqrt(first) - 2 asin sqrt(second), for two shares (Cohen 1988, chapter 6: 0.2 is small, 0.5 medium)."""
    return 2 * math.asin(math.sqrt(first)) - 2 * math.asin(math.sqrt(second))


def mean_interval(
    right: Right, seed: int = 0, imagined: tuple[float, float] = IMAGINED[1]
) -> tuple[float, float, float]:
    """An arm's accuracy over its seeds and examples, with the interval of the same bootstrap.

    Any other figure of the examples will do; `imagined` are then the ends of what it can be.
    """
    values = np.array([right[one] for one in sorted(right)], dtype=np.float64)  # (S, N)
    return float(values.mean()), *_interval(values, seed, imagined)


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


def mcnemar(ours: Sequence[bool] | NDArray[np.float64], theirs: Sequence[bool] | NDArray[np.float64]) -> float:
    """Exact two-sided p: how surprising the split of the examples that only one of the two got right is."""
    first, second = np.asarray(ours, dtype=bool), np.asarray(theirs, dtype=bool)
    only_ours, only_theirs = int((first & ~second).sum()), int((second & ~first).sum())
    total, fewer = only_ours + only_theirs, min(only_ours, only_theirs)
    tail: int = sum(math.comb(total, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**total) if total else 1.0
