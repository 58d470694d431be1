"""What the command line shows: a bar for each phase of a job, the report as a table, words highlighted in their text.

Renders only; fetches nothing and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from understudy.evaluation.report import Comparison, Report
from understudy.schemas import Prediction, Word

__all__ = ["PhaseBars", "prediction_view", "report_view"]

_HIGHLIGHT = "bold black on yellow"
_VERDICT_STYLE = {"BEATS": "bold green", "DOES NOT BEAT": "bold red", "INCONCLUSIVE": "bold yellow"}


class PhaseBars:
    """One live bar a phase; where there is no terminal, one line when a phase begins and when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[str, TaskID] = {}
        self._said: dict[str, str] = {}
        self._progress = Progress(
            TextColumn("  {task.description:<10}"),
            BarColumn(bar_width=32),
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
    """Every arm with its accuracy, interval, size and latency; then the verdicts, what was published, the caveats."""
    rows = report.rows
    facts = (
        f"{rows.train:,} train · {rows.validation:,} validation · {rows.test:,} test rows · {rows.rejected:,} rejected"
    )
    verdicts = Group(*(_verdict(comparison) for comparison in report.comparisons))
    return Group(
        Text(f"  {facts}\n"),
        _arms(report),
        Text("\n  Verdict", style="bold"),
        verdicts,
        Text(f"\n  {report.published.why}", style="bold"),
        *([Text(f"  {_hits(report)}")] if report.rationale.with_answer_in_input else []),
        *(Text(f"  · {caveat}", style="dim") for caveat in report.caveats),
    )


def prediction_view(text: str, prediction: Prediction) -> RenderableType:
    """The text with the words that the student names highlighted, above its label."""
    shown = Text("  ").append_text(_marked(text, prediction.words or ()))
    shown.append(f"\n    {prediction.label} ", style="bold green")
    shown.append(f"{prediction.probability:.0%}\n", style="dim")
    return shown


def _arms(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=True)
    table.add_column("arm", no_wrap=True)
    for title in ("accuracy", "95 % interval", "parameters", "size", "latency"):
        table.add_column(title, justify="right", no_wrap=True)
    teacher = report.teacher
    latency = "" if teacher.latency_ms is None else f"{teacher.latency_ms:.1f} ms"
    interval = f"{teacher.low:.1%} - {teacher.high:.1%}"
    table.add_row("teacher", f"{teacher.accuracy:.1%}", interval, f"{teacher.parameters:,}", "", latency, style="dim")
    for arm in report.arms:
        mark = " (published)" if arm.recipe == report.published.recipe else ""
        table.add_row(
            arm.recipe + mark,
            f"{arm.accuracy:.1%}",
            f"{arm.low:.1%} - {arm.high:.1%}",
            f"{arm.parameters:,}",
            f"{arm.size_mb:.1f} MB",
            f"{arm.latency_ms:.1f} ms",
            style="bold" if mark else "" if arm.candidate else "dim",
        )
    table.add_row("majority class", f"{report.baseline.accuracy:.1%}", *[""] * 4, style="dim")
    return table


def _verdict(comparison: Comparison) -> Text:
    line = Text(f"  {comparison.sentence}")
    line.highlight_words([comparison.verdict], style=_VERDICT_STYLE[comparison.verdict])
    return line


def _hits(report: Report) -> str:
    found = report.rationale
    return (
        f"In {found.with_answer_in_input:,} of {found.rows:,} training rows the answer's text is in the input; the "
        f"teacher's words include part of it in {found.share:.0%} of them, as many random words in {found.chance:.0%}."
    )


def _marked(text: str, words: Sequence[Word]) -> Text:
    shown = Text(text)
    for word in words:
        shown.stylize(_HIGHLIGHT, word.start, word.end)
    return shown
