"""The report as a page: one HTML file without scripts, fetching nothing, readable in light and dark. Imports no torch.

The templates hold the words and the looks; what is here turns numbers into text and into places on an axis. Intervals
are drawn inside the tables that hold their numbers, by style alone; `figures` draws what needs two axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from understudy.evaluation.compare import MARGIN
from understudy.evaluation.figures import learning_curve, reliability
from understudy.evaluation.report import Report, duration, points
from understudy.schemas import Word

__all__ = ["Axis", "render_html"]


@dataclass(frozen=True)
class Axis:
    """A range of shares with round ticks; `place` is where a value stands on it, in percent of its length."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, values: Iterable[float], *, bounds: tuple[float, float] | None = None) -> Axis:
        """An axis that holds all values, in steps of 1, 2 or 5 of some power of ten, about six of them."""
        listed = list(values)
        low, high = min(listed), max(listed)
        rough = max(high - low, 0.01) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
        first = math.floor(low / step + 1e-9)
        last = max(first + 1, math.ceil(high / step - 1e-9))
        ticks = tuple(round(step * tick, 10) for tick in range(first, last + 1))
        if bounds:
            ticks = tuple(tick for tick in ticks if bounds[0] <= tick <= bounds[1])
        return cls(ticks[0], ticks[-1], ticks)

    def place(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return round(100 * (inside - self.low) / (self.high - self.low), 2)

    def width(self, low: float, high: float) -> float:
        return round(self.place(high) - self.place(low), 2)


def render_html(report: Report) -> str:
    """The whole page as a string; everything that came from data is escaped."""
    return _page().render(report=report, student=report.student, **_axes(report), **_figures(report))


def _figures(report: Report) -> dict[str, Markup]:
    """The drawings, in which matplotlib has escaped every text."""
    drawn = {}
    if report.curve:
        drawn["curve_figure"] = Markup(learning_curve(report.curve))
    if report.calibration:
        drawn["reliability_figure"] = Markup(reliability(report.calibration))
    return drawn


def _axes(report: Report) -> dict[str, Any]:
    shown: Sequence[Any] = (*report.arms, *filter(None, [report.teacher]))
    ends = [end for one in shown for end in (one.low, one.high)]
    sliced = [cell for one in report.slices for cell in one.cells]
    gaps = [end for one in report.comparisons for end in (one.low, one.high)]
    return {
        "accuracies": Axis.around(ends, bounds=(0.0, 1.0)),
        "differences": Axis.around([*gaps, -MARGIN, MARGIN]),
        "slice_axis": Axis.around(
            [*(e for s in sliced for e in (s.accuracy.low, s.accuracy.high)), 1.0], bounds=(0.0, 1.0)
        ),
        "kinds": ("teacher", "finetune", "candidate"),
        "margin": MARGIN,
    }


@cache
def _page() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "points": points, "count": _count, "pieces": _pieces, "sig": _sig}
    environment.filters |= {
        "p_value": _p_value,
        "duration": lambda seconds: "not told" if seconds is None else duration(seconds),
        "spans": _spans,
    }
    return environment.get_template("report.html.j2")


def _percent(share: float | None, digits: int = 1) -> str:
    return "n/a" if share is None else f"{100 * share:.{digits}f}"


def _count(number: int) -> str:
    """12,345 below a million, then 1.2 M and 3.4 B."""
    for size, unit in ((10**9, "B"), (10**6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,}"


def _sig(number: float) -> str:
    """Three significant digits from a thousandth up, and never an exponent."""
    return f"{number:,.0f}" if number >= 100 else f"{number:#.3g}" if number >= 0.001 else f"{number:.3f}"


def _p_value(p: float | None) -> str:
    return "n/a" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _spans(spans: Iterable[tuple[int, int]], text: str) -> list[Word]:
    """Character spans as words of equal weight."""
    return [Word(text=text[start:end], start=start, end=end, score=1.0) for start, end in spans]


def _pieces(text: str, words: Iterable[Word]) -> list[tuple[str, float | None]]:
    """The text in pieces, each with the share of the strongest word's score; None for a piece that is no reason."""
    chosen = sorted(words, key=lambda word: word.start)
    strongest = max((word.score for word in chosen), default=1.0)
    pieces: list[tuple[str, float | None]] = []
    place = 0
    for word in chosen:
        if word.start < place:  # a word that another one already covers
            continue
        strength = max(0.0, word.score / strongest) if strongest > 0 else 1.0
        pieces += [(text[place : word.start], None), (text[word.start : word.end], strength)]
        place = word.end
    return [piece for piece in [*pieces, (text[place:], None)] if piece[0]]
