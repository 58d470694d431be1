"""What the command line shows of jobs: a table of them, or one with its timeline, its cost and its error.

Renders only.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from understudy.display import bullet
from understudy.evaluation.report import duration

__all__ = ["ADVICE", "advice", "job_view", "jobs_view"]

_STYLES = {"succeeded": "green", "failed": "bold red", "cancelled": "dim", "paused": "yellow", "running": "cyan"}
_SIGNS = {"done": "✓", "running": "▸", "failed": "✗", "cancelled": "✗", "paused": "‖", "pending": "·"}

ADVICE: Mapping[str, str] = {
    "unavailable": "`understudy doctor` says which service is away. Submit the job again once it answers.",
    "overloaded": "Submit the job again when the teacher has less to do.",
    "budget_exhausted": "Submit it again with a larger --budget-seconds or --budget-teacher-tokens, or fewer recipes.",
    "model_not_found": "Name a folder, a hub name, an artifact id or scratch:bert-2x128 (--teacher, --student).",
    "artifact_not_found": "What it was made from is gone: submit it again with its files.",
    "artifact_corrupt": "A file of the artifact store was changed: submit it again.",
    "model_error": "Choose another model, or a smaller one where memory was the trouble (--teacher, --student).",
    "stage_failed": "The stack's log has the whole story (understudy.log in its folder). Submit the job again.",
    "internal_error": "That is a defect of Understudy: please report it with the stack's log.",
}
"""What to do about a job's error, by its code."""


def advice(error: Mapping[str, Any], option: str | None) -> str | None:
    """What to do about a job's error; `option` is the one that sets the field at fault."""
    if option:
        return f"Change {option} and submit it again; --dry-run checks that first."
    if str(error.get("code", "")) in ADVICE:
        return ADVICE[str(error["code"])]
    return "Change the rows or options that it names and submit it again; `distill --dry-run` checks that first."


def jobs_view(jobs: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("job, made", no_wrap=True)
    table.add_column("state", overflow="fold")
    table.add_column("student, result", overflow="fold", min_width=30)  # as long as an artifact's id
    for job in jobs:
        state = Text(job["status"], _STYLES.get(job["status"], ""))
        if job["status"] in ("running", "paused"):
            state.append(f"\n{job['phase']} {job['progress']['percent']:.0f} %", "dim")
        result = job["fine_tuned_model"] or (job.get("error") or {}).get("message") or ""
        about = Text(job["model"]).append(f"\n{_short(result)}" if result else "", "dim")
        table.add_row(Text(job["id"]).append(f"\n{_moment(job['created_at'])}", "dim"), state, about)
    return table


def job_view(job: Mapping[str, Any], events: Sequence[Mapping[str, Any]], option: str | None = None) -> RenderableType:
    """One job; `option` is the one at fault where it failed."""
    parts: list[RenderableType] = [_facts(job), Text(), _timeline(job)]
    if job.get("error"):
        parts.append(bullet(Text(f"{job['error']['code']}: {job['error']['message']}"), "✗", "red"))
        if what := advice(job["error"], option):
            parts.append(bullet(what, "→", "bold"))
    if events:
        parts += [Text("\n  The last it told:", "dim"), *map(_event, events)]
    return Group(*parts)


def _facts(job: Mapping[str, Any]) -> Table:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _known(job).items():
        if value:
            facts.add_row(f"  {name}", value)
    return facts


def _known(job: Mapping[str, Any]) -> dict[str, str | Text]:
    spec = job["method"].get(job["method"]["type"]) or {}
    took = (job["finished_at"] or time.time()) - job["created_at"]
    ended = f", ended {_moment(job['finished_at'])}" if job["finished_at"] else ""
    return {
        "job": job["id"],
        "state": _state(job),
        "made": f"{_moment(job['created_at'])}{ended}, {duration(took)} in all",
        "ready": f"about {_moment(job['estimated_finish'])}" if job.get("estimated_finish") else "",
        "student": job["model"],
        "teacher": (spec.get("teacher") or {}).get("model", ""),
        "rows": _rows(job["rows"]) if job.get("rows") else "",
        "published": f"{job['fine_tuned_model']}, as {job['alias']}" if job["fine_tuned_model"] else "",
        "cost": _cost(job),
        "metadata": ", ".join(f"{name}={value}" for name, value in (job.get("metadata") or {}).items()),
    }


def _state(job: Mapping[str, Any]) -> Text:
    state = Text(job["status"], _STYLES.get(job["status"], ""))
    return state if job["status"] == "succeeded" else state.append(f" in phase {job['phase']}", "dim")


def _rows(rows: Mapping[str, int]) -> str:
    counted = ("train", "validation", "test", "unlabelled", "rejected")
    return " · ".join(f"{rows[name]:,} {name}" for name in counted if rows.get(name))


def _cost(job: Mapping[str, Any]) -> str:
    spent, estimate = job["spent"], job.get("estimate") or {}
    expected = f" of about {duration(estimate['seconds'])}" if estimate.get("seconds") else ""
    tokens = f" · {spent['teacher_tokens']:,} teacher tokens" if spent["teacher_tokens"] else ""
    return f"{duration(spent['seconds'])} of workers{expected}{tokens}"


def _timeline(job: Mapping[str, Any]) -> Table:
    """A line a phase: its state, how far it is, and what workers have spent on it."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, style="dim")
    for phase in job["phases"]:
        state = phase["state"]
        style = {"done": "green", "pending": "dim"}.get(state, _STYLES.get(state, ""))
        done = f"{phase['completed']:,} / {phase['total']:,} {phase['unit']}" if phase["total"] else ""
        spent = job["spent"]["seconds_by_phase"].get(phase["phase"])
        left = f", {duration(phase['eta_seconds'])} left" if phase.get("eta_seconds") else ""
        sign = Text(f"  {_SIGNS.get(state, '·')} {phase['phase']}", style)
        table.add_row(
            sign, Text(state, style), f"{phase['percent']:.0f} %", done, f"{duration(spent)}{left}" if spent else ""
        )
    return table


def _event(one: Mapping[str, Any]) -> RenderableType:
    style = {"warn": "yellow", "error": "red"}.get(one["level"], "")
    moment = datetime.fromtimestamp(one["created_at"], UTC).strftime("%H:%M:%S")
    return bullet(Text(f"{moment}  ", "dim").append(one["message"], style or "not dim"), "")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _short(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
