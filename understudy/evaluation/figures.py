"""The report's line charts, drawn by matplotlib as SVG that stands in the page and takes its colours. No torch.

Every colour is a style variable of the page, so that one drawing serves light and dark; text stays text, which a reader
may select, search and have read out. The same numbers always give the same bytes. The page puts a table beside each
chart; here is only the drawing. matplotlib is imported when something is drawn: whoever reads a report needs none.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from understudy.evaluation.details import Calibration, CurvePoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SERIES", "learning_curve", "reliability"]

SERIES = ("series-1", "series-2", "series-3", "series-4", "series-5", "series-6")
_MARKERS = ("o", "s", "^", "D", "v", "P")

# matplotlib knows no style variables: it draws in these colours, which are then put in their place.
_INKS = {
    name: f"#{place:06x}"
    for place, name in enumerate(("ink", "soft", "line", "teacher", "student", *SERIES), start=0xC0FFE1)
}

_PANEL = 2.5  # inches


def learning_curve(points: Sequence[CurvePoint]) -> str:
    """Accuracy over the number of labelled rows, with 95 % intervals; controls dashed in the colour of their recipe."""
    candidates = list(dict.fromkeys(one.recipe for one in points if one.candidate))
    sizes = sorted({one.size for one in points})
    with _figure(7.6, 3.9, "curve") as (figure, drawn):
        axes = _axes(figure.subplots())
        for recipe in dict.fromkeys(one.recipe for one in points):
            mine = sorted((one for one in points if one.recipe == recipe), key=lambda one: one.size)
            place = candidates.index(_treated(recipe, candidates))
            candidate = mine[0].candidate
            # Beside each other, so that intervals of the same size can be told apart; equal steps on a log axis.
            shift = 1.03 ** (place - (len(candidates) - 1) / 2)
            values = [100 * one.accuracy.value for one in mine]
            axes.errorbar(
                [one.size * shift for one in mine],
                values,
                yerr=[
                    [v - 100 * one.accuracy.low for v, one in zip(values, mine, strict=True)],
                    [100 * one.accuracy.high - v for v, one in zip(values, mine, strict=True)],
                ]
                if candidate
                else None,
                color=_INKS[SERIES[place % len(SERIES)]],
                marker=_MARKERS[place % len(_MARKERS)] if candidate else None,
                linestyle="-" if candidate else (0, (2, 2)),
                linewidth=1.8 if candidate else 1.1,
                markersize=5,
                elinewidth=1,
                label=recipe.replace("+", " + ") if candidate else None,
                clip_on=False,
            )
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("labelled training rows")
        axes.set_ylabel("accuracy on the test split, %")
        handles, _ = axes.get_legend_handles_labels()
        if any(not one.candidate for one in points):
            handles += axes.plot([], [], color=_INKS["soft"], linestyle=(0, (2, 2)), lw=1.1, label="their controls")
        figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, labelcolor=_INKS["ink"])
    return drawn[0]


def _treated(recipe: str, candidates: Sequence[str]) -> str:
    """The candidate that a control belongs to: the longest whose name begins it."""
    return max(
        (one for one in candidates if recipe == one or recipe.startswith(f"{one}+")), key=len, default=""
    ) or next(iter(candidates))


def reliability(models: Sequence[Calibration]) -> str:
    """For each model the share of right answers over the probability that it gave them, ten bins of equal size."""
    with _figure(_PANEL * len(models) + 0.4, _PANEL + 0.45, "reliability") as (figure, drawn):
        panels = figure.subplots(1, len(models), sharey=True, squeeze=False, gridspec_kw={"wspace": 0.12})[0]
        for axes, model in zip(panels, models, strict=True):
            _axes(axes)
            axes.plot([0, 100], [0, 100], color=_INKS["soft"], linewidth=1, linestyle=(0, (4, 3)))
            values = [100 * one.accuracy for one in model.bins]
            axes.errorbar(
                [100 * one.confidence for one in model.bins],
                values,
                yerr=[
                    [max(0.0, v - 100 * one.low) for v, one in zip(values, model.bins, strict=True)],
                    [max(0.0, 100 * one.high - v) for v, one in zip(values, model.bins, strict=True)],
                ],
                color=_INKS["teacher" if model.seed is None else "student"],
                marker="o",
                markersize=4.5,
                linewidth=1.4,
                elinewidth=1,
                clip_on=False,
            )
            axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", xticks=(0, 50, 100), yticks=(0, 50, 100))
            axes.set_title(model.model.replace("+", " + "), color=_INKS["ink"], fontsize=10)
            axes.set_xlabel("probability given, %")
        panels[0].set_ylabel("right, %")
    return drawn[0]


def _axes(axes: Axes) -> Axes:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(_INKS["line"])
    axes.grid(color=_INKS["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INKS["soft"], length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_INKS["soft"])
    return axes


@contextmanager
def _figure(width: float, height: float, name: str) -> Iterator[tuple[Figure, list[str]]]:
    """A figure to draw on; when done, the list holds its SVG. `name` sets its ids apart from other drawings'."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.size": 9.5,
        "font.family": "DejaVu Sans",  # comes with matplotlib: the lay-out does not depend on the machine
    }
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout="constrained")
        drawn: list[str] = []
        yield figure, drawn
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
        drawn.append(_inline(buffer.getvalue(), name))


def _inline(svg: str, name: str) -> str:
    """The drawing as part of a page: without declarations, styles of its own and a fixed size, in the page's colours.

    Nothing is drawn outside its axes, so nothing needs to be clipped.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style|clipPath)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' clip-path="[^"]*"', "", svg)
    svg = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true" focusable="false">', svg, count=1)
    svg = re.sub(r'( id="|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", svg)
    for variable, ink in _INKS.items():
        svg = svg.replace(ink, f"var(--{variable})")
    return svg
