"""Do a model's answers still look as they did when it was published? Counts against counts. Knows no model.

The measure is the population stability index, sum over the categories of (q - p) ln(q / p), for shares p of the profile
and q of the last answers. With m and n rows and no drift at all it is on average (k - 1)(1/m + 1/n) for k categories,
and (1/m + 1/n) times a chi-squared variable of k - 1 degrees of freedom (Yurdakul and Naranjo 2020, "Statistical
properties of the population stability index", Journal of Risk Model Validation 14(4)). A small window is therefore
not called drift for its size alone: the average is taken off, and the index has to be more than chance gives once in a
hundred windows. The levels 0.1 and 0.25 are the customary ones (Siddiqi 2006, "Credit Risk Scorecards").

Half a row is added to every category (Jeffreys), since a label that did not occur would make the index infinite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DRIFTED", "FEWEST", "MOVED", "Profile", "Shift", "Verdict", "shift"]

MOVED, DRIFTED = 0.1, 0.25
FEWEST = 50
"""Answers below which nothing is said."""
_CHANCE = 0.99  # of windows without drift stay below the bound

Verdict = Literal["too_few", "stable", "moved", "drifted"]


class Profile(BaseModel):
    """How a model answered the test split when it was published; part of its report.

    `labels` counts its answers to the `rows`, where the task has labels. `words_found` and `words_dropped` count the
    words that it named as reasons in a sample of them, in the input and not in it, when it was asked for `top_k` at
    most. They are compared with answers to requests for as many: of the words that come later, other shares may be in
    the input. Without `top_k`, as older reports are, they are compared with none.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    rows: int = Field(ge=0)
    labels: dict[str, int] = {}
    words_found: int = Field(default=0, ge=0)
    words_dropped: int = Field(default=0, ge=0)
    top_k: int | None = Field(default=None, ge=1)

    @property
    def words(self) -> dict[str, int]:
        """What words are compared with; nothing where it is not known how many were asked for."""
        return {} if self.top_k is None else {"found": self.words_found, "dropped": self.words_dropped}

    @classmethod
    def of_report(cls, report: Mapping[str, Any]) -> Profile | None:
        """The profile in a report, the confusion table's where an older one has no other; None where there is none."""
        if report.get("profile"):
            return cls.model_validate(report["profile"])
        confusion: Mapping[str, Any] = report.get("confusion") or {}
        counts, labels = confusion.get("counts"), confusion.get("labels", ())
        if not counts:
            return None
        answered = {label: sum(row[i] for row in counts) for i, label in enumerate(labels)}
        return cls(rows=sum(answered.values()), labels=answered)


class Shift(BaseModel):
    """How far one distribution is from another. `excess` is `index` without `expected`, what chance gives on average.

    `bound` is what chance exceeds once in a hundred times. `moved` and `drifted` are an excess of 0.1 and 0.25 from an
    index above the bound.
    """

    model_config = ConfigDict(frozen=True)

    index: float
    expected: float
    bound: float
    excess: float
    verdict: Verdict


def shift(before: Mapping[str, int], after: Mapping[str, int]) -> Shift:
    """Compare two distributions of counts. A category that only one of them has counts zero in the other."""
    names = sorted({*before, *after})
    m, n = sum(before.values()), sum(after.values())
    freedom = len(names) - 1
    if not m or not n or freedom < 1:
        verdict: Verdict = "stable" if min(m, n) >= FEWEST else "too_few"
        return Shift(index=0.0, expected=0.0, bound=0.0, excess=0.0, verdict=verdict)
    p, q = _shares(before, names), _shares(after, names)
    index = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    noise = 1 / m + 1 / n
    expected, bound = noise * freedom, noise * _chi_squared(freedom, _CHANCE)
    excess = max(0.0, index - expected)
    return Shift(
        index=index, expected=expected, bound=bound, excess=excess, verdict=_verdict(min(m, n), index > bound, excess)
    )


def _verdict(rows: int, beyond_chance: bool, excess: float) -> Verdict:
    if rows < FEWEST:
        return "too_few"
    if not beyond_chance or excess < MOVED:
        return "stable"
    return "drifted" if excess >= DRIFTED else "moved"


def _shares(counts: Mapping[str, int], names: list[str]) -> list[float]:
    total = sum(counts.get(name, 0) for name in names) + len(names) / 2
    return [(counts.get(name, 0) + 0.5) / total for name in names]


def _chi_squared(freedom: int, quantile: float) -> float:
    """A quantile by Wilson and Hilferty (1931), within 1 % for two degrees of freedom and more, 2 % for one."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + NormalDist().inv_cdf(quantile) * math.sqrt(spread)) ** 3
