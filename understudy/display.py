"""What the command line shows: a bar for each phase of a job, the report as a table, words highlighted in their text.

Renders only; fetches nothing and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from understudy.attribution.terminal import bracketed, marked
from understudy.evaluation.report import Comparison, RationaleHits, Report, duration
from understudy.schemas import Prediction

__all__ = ["PhaseBars", "bullet", "percent", "prediction_view", "report_view", "verdict_line"]

_VERDICT_STYLE = {"BEATS": "bold green", "DOES NOT BEAT": "bold red", "INCONCLUSIVE": "bold yellow"}


class PhaseBars:
    """One live bar a phase; where there is no terminal, one line when a phase begins and when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[str, TaskID] = {}
        self._said: dict[str, str] = {}
        self._progress = Progress(
            TextColumn("  {task.description:<10}"),
            BarColumn(bar_width=22),  # so that a line fits 80 columns
            TextColumn("{task.completed:>6,.0f} / {task.total:,.0f} {task.fields[unit]:<10}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, job: Mapping[str, Any]) -> None:
        """Show the job as it came over the wire."""
        for phase in job.get("phases", []):
            if phase["state"] == "pending":
                continue
            if self._console.is_terminal:
                self._draw(phase)
            elif self._said.get(phase["phase"]) != phase["state"]:
                self._said[phase["phase"]] = phase["state"]
                done = f"{phase['completed']:,} / {phase['total']:,} {phase['unit']}" if phase["total"] else ""
                self._console.print(f"  {phase['phase']:<10} {phase['state']:<8} {done}", highlight=False)

    def _draw(self, phase: Mapping[str, Any]) -> None:
        name, total = phase["phase"], max(1, phase["total"])
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=total, unit=phase["unit"])
        done = total if phase["state"] == "done" else min(phase["completed"], total)
        self._progress.update(self._bars[name], completed=done, total=total)


def report_view(report: Report) -> RenderableType:
    """Every arm with its accuracy, interval, size and latency; then the verdicts, the learning curve if there is one,
    what was published and the caveats. The page has what is behind them.
    """
    rows = report.rows
    facts = f"{rows.train:,} train · {rows.validation:,} validation · {rows.test:,} test rows"
    facts += f" · {rows.unlabelled:,} without an answer" if rows.unlabelled else ""
    return Group(
        bullet(facts, " "),
        _arms(report),
        *(verdict_line(comparison) for comparison in report.comparisons),
        *([_curve(report)] if report.curve else []),
        Text(),
        bullet(report.published.why, "→", "bold"),
        *(bullet(note, "·", "dim") for note in [*_notes(report), *report.caveats]),
    )


def prediction_view(text: str, prediction: Prediction, *, colours: bool = True, others: int = 0) -> RenderableType:
    """The text with the words that the student names highlighted, in brackets where there are no colours.

    Below stands the answer with its probability, and those of so many `others`.
    """
    words = prediction.words or ()
    shown = marked(text, words) if colours else Text(bracketed(text, words))
    label = Text(prediction.label, style="bold green").append(f"  {prediction.probability:.0%}", style="not bold dim")
    ranked = sorted((prediction.probabilities or {}).items(), key=lambda one: -one[1])
    for name, probability in [one for one in ranked if one[0] != prediction.label][:others]:
        label.append(f"   {name} {probability:.0%}", style="not bold dim")
    return Padding(Group(shown, label.append("\n")), (0, 2))


def _arms(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=True)
    table.add_column("arm", min_width=24)  # long recipe names wrap at their plus signs
    for title in ("accuracy %", "95 % interval", "weights", "MB", "ms"):
        table.add_column(title, justify="right", no_wrap=True)
    if teacher := report.teacher:
        table.add_row(
            "teacher",
            percent(teacher.accuracy),
            f"{percent(teacher.low)} - {percent(teacher.high)}",
            _count(teacher.parameters),
            "",
            "" if teacher.latency_ms is None else f"{teacher.latency_ms:.1f}",
            style="dim",
        )
    for arm in report.arms:
        published = arm.recipe == report.published.recipe
        table.add_row(
            arm.recipe.replace("+", " + ") + " (published)" * published,
            percent(arm.accuracy),
            f"{percent(arm.low)} - {percent(arm.high)}",
            _count(arm.parameters),
            f"{arm.size_mb:.1f}",
            f"{arm.latency_ms:.1f}",
            style="bold" if published else "" if arm.candidate else "dim",
        )
    table.add_row(f"baseline: {report.baseline.description}", percent(report.baseline.accuracy), *[""] * 4, style="dim")
    return table


def _curve(report: Report) -> Table:
    """Accuracy of the candidates over the number of labelled rows; the page has the intervals and the controls."""
    sizes = sorted({one.size for one in report.curve})
    table = Table(box=box.SIMPLE_HEAD, pad_edge=True)
    table.add_column("accuracy % with", min_width=24)
    for size in sizes:
        table.add_column(f"{size:,} rows", justify="right", no_wrap=True)
    found = {(one.recipe, one.size): percent(one.accuracy.value) for one in report.curve}
    for recipe in dict.fromkeys(one.recipe for one in report.curve if one.candidate):
        table.add_row(recipe.replace("+", " + "), *(found.get((recipe, size), "") for size in sizes))
    return table


def verdict_line(comparison: Comparison) -> RenderableType:
    line = Text(comparison.sentence)
    line.highlight_words([comparison.verdict], style=_VERDICT_STYLE[comparison.verdict])
    return bullet(line, " ")


def _notes(report: Report) -> list[str]:
    """What the table leaves out."""
    rejected = report.rows.rejected
    were = "1 row was" if rejected == 1 else f"{rejected:,} rows were"
    listed = [f"{were} rejected; the job lists each with its line and reason."] if rejected else []
    listed += [*_searched(report), *_paid(report)]
    if report.rationale is None:
        return [*listed, "ms is the median of single answers."]
    return [*listed, "ms is the median of single answers, the teacher's over HTTP.", _hits(report.rationale)]


def _searched(report: Report) -> list[str]:
    """The candidates of a search, one paragraph a round, the best first."""
    rounds = sorted({one.round for one in report.searched})
    found = []
    for number in rounds:
        tries = sorted(
            (one for one in report.searched if one.round == number), key=lambda one: -one.validation_accuracy
        )
        went_on = [f"{one.recipe} {percent(one.validation_accuracy)}" for one in tries if one.kept]
        dropped = [f"{one.recipe} {percent(one.validation_accuracy)}" for one in tries if not one.kept]
        ended = "not trained in full" if number == rounds[-1] else "dropped"
        rest = f"; {ended}: {', '.join(dropped)}" if dropped else ""
        when = "after a short training" if len(rounds) == 1 else f"in round {number}, after {tries[0].steps:,} steps"
        found.append(f"Validation accuracy, %, {when}: {', '.join(went_on)}{rest}.")
    return found


def _paid(report: Report) -> list[str]:
    paid = report.cost
    if paid is None or paid.beyond is None:
        return []
    saved = f"; the student's speed repays that after {paid.repaid_after:,} answers" if paid.repaid_after else ""
    return [f"Distilling took {duration(paid.beyond)} more than fine-tuning one student{saved}."]


def _hits(found: RationaleHits) -> str:
    if found.share is None or found.chance is None:
        return "In no training row is the answer's text part of the input, so the teacher's words cannot hit it."
    return (
        f"In {found.with_answer_in_input:,} of {found.rows:,} training rows the answer's text is in the input. The "
        f"teacher's words include part of it in {found.share:.0%} of those, as many random words in {found.chance:.0%}."
    )


def bullet(text: str | Text, sign: str, style: str = "") -> RenderableType:
    """A paragraph whose further lines stand under its first."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=3, justify="right")
    grid.add_column()
    grid.add_row(sign, Text(text, style=style) if isinstance(text, str) else text)
    return grid


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _count(number: int) -> str:
    """Three digits and a unit: 575 k, 1.45 M, 3 B."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
