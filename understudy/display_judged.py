"""What the command line shows of a model that was judged on a file. Renders only."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from understudy.display import bullet, percent, verdict_line
from understudy.evaluation.details import Calibration, Confusion, Estimate
from understudy.judge import Judged

__all__ = ["judged_view"]

MATRIX = 8
"""Labels up to which all confusions are shown, as many as 80 columns hold."""


def judged_view(found: Judged) -> RenderableType:
    """A model on a file: its accuracy beside the baseline's, each label, confusions, calibration, then the verdict."""
    first = Text(f"{_estimate(found.accuracy)} of {found.rows:,} rows right", "bold")
    first.append(f"; {found.baseline_says} would get {percent(found.baseline)} %", "not bold")
    parts: list[RenderableType] = [bullet(found.model, "", "dim"), bullet(first, "")]
    if found.labels:
        parts.append(_labels(found))
    if found.confusion and found.confusion.counts and len(found.confusion.labels) <= MATRIX:
        parts.append(_matrix(found.confusion.labels, found.confusion.counts))
    elif found.confusion and found.confusion.top:
        parts.append(bullet("Most often confused: " + _confused(found.confusion), "·"))
    if found.calibration:
        parts.append(bullet(_calibrated(found.calibration), "·"))
    if found.comparison and found.against_accuracy:
        one = found.against_accuracy
        parts.append(bullet(f"{found.against}: {percent(one.value)} % [{percent(one.low)}, {percent(one.high)}]", "·"))
        parts += [
            verdict_line(found.comparison),
            bullet("That is one model against one, on such rows; it says nothing of their recipes.", "·", "dim"),
        ]
    return Group(*parts, *(bullet(note, "·", "yellow") for note in _shortcomings(found)))


def _labels(found: Judged) -> Table:
    """A row a label."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=True)
    table.add_column("label", overflow="fold")
    for title in ("rows", "right %", "95 % interval", "precision %", "F1"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in found.labels:
        recall, interval = "", ""
        if one.recall:
            recall, interval = percent(one.recall.value), f"{percent(one.recall.low)} - {percent(one.recall.high)}"
        precision = "" if one.precision is None else percent(one.precision)
        table.add_row(
            one.label, f"{one.rows:,}", recall, interval, precision, "" if one.f1 is None else f"{one.f1:.3f}"
        )
    if found.macro_f1 is not None:
        table.add_row("mean of labels", "", "", "", "", f"{found.macro_f1:.3f}", style="dim")
    return table


def _matrix(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    """Rows of each label by the answers that they were given; right ones are bold, zeros are left out."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=True)
    table.add_column("answered as", overflow="fold")
    for label in labels:
        table.add_column(label, justify="right", overflow="fold")
    for place, (label, row) in enumerate(zip(labels, counts, strict=True)):
        cells = [Text(f"{count:,}" if count else "·", "bold" if at == place else "") for at, count in enumerate(row)]
        table.add_row(label, *cells)
    return table


def _estimate(one: Estimate) -> str:
    return f"{percent(one.value)} % [{percent(one.low)}, {percent(one.high)}]"


def _confused(found: Confusion) -> str:
    return "; ".join(f"{one.expected} as {one.given} {one.count:,} of {one.of:,}" for one in found.top[:5])


def _calibrated(found: Calibration) -> str:
    return (
        f"Its probabilities say {percent(found.confidence)} % on average and {percent(found.accuracy)} % are right: "
        f"calibration error {percent(found.ece)} points, of which {percent(found.ece_if_calibrated)} would be luck; "
        f"Brier score {found.brier:.3f}"
    )


def _shortcomings(found: Judged) -> list[str]:
    """What the figures rest on, where that is less than the file."""
    notes = []
    if found.outside_rows:
        named = "; ".join(f"line {one.line}: {one.output}" for one in found.outside)
        count = "1 row has" if found.outside_rows == 1 else f"{found.outside_rows:,} rows have"
        notes.append(f"{count} an answer that is none of the model's labels, which counts as wrong: {named}")
    if found.against_outside_rows > found.outside_rows:
        notes.append(
            f"{found.against} lacks the answer's label in {found.against_outside_rows:,} rows, which are lost to it"
        )
    if found.truncated:
        notes.append(f"{found.truncated:,} rows were longer than the model's window and were cut")
    if found.rejected_rows:
        notes.append(f"{found.rejected_rows:,} set aside, which count nowhere: {'; '.join(found.rejected)}")
    return notes
