"""What one trained student did with the test split, and the accuracy of a recipe over its seeds. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from understudy.evaluation.compare import Right, mean_interval
from understudy.evaluation.details import Estimate
from understudy.evaluation.metrics import wilson
from understudy.evaluation.spec import ArmResult

__all__ = ["Answered", "accuracy", "by_recipe", "right_of", "share"]


@dataclass(frozen=True)
class Answered:
    """One student's answers in the order of the test rows; `probabilities` are those of the answers given.

    `out_of_reach` counts the expected answers that are longer than the student may write. `latency_ms` is 0 where it
    was not timed.
    """

    arm: ArmResult
    given: list[str]
    probabilities: list[float]
    right: list[bool]
    truncated: int
    parameters: int
    size_mb: float
    latency_ms: float
    out_of_reach: int = 0


def by_recipe(answered: Iterable[Answered]) -> dict[str, list[Answered]]:
    """The runs of each recipe, recipes in the order in which they first come."""
    found: dict[str, list[Answered]] = {}
    for one in answered:
        found.setdefault(one.arm.recipe, []).append(one)
    return found


def right_of(runs: Iterable[Answered], places: Sequence[int] | None = None) -> dict[int, list[bool]]:
    """For each seed whether the test rows were answered rightly; only those at `places`, where they are given."""
    return {run.arm.seed: run.right if places is None else [run.right[place] for place in places] for run in runs}


def accuracy(right: Right) -> Estimate:
    """Wilson's interval for one seed, the bootstrap over examples and seeds for several."""
    if len(right) == 1:
        return share(next(iter(right.values())))
    value, low, high = mean_interval(right)
    return Estimate(value=value, low=low, high=high)


def share(right: Sequence[float]) -> Estimate:
    """The share of what is right, with Wilson's interval."""
    low, high = wilson(sum(right), len(right))
    return Estimate(value=statistics.fmean(right) if right else 0.0, low=low, high=high)
