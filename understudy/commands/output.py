"""Where commands print: what was asked for on standard output, all that goes on meanwhile on the other where a program
reads along.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Json", "Step", "aside", "colours", "console", "meanwhile", "print_json", "print_line", "progress", "when"]

PIPED_WIDTH = 100

Json = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]
Step = Callable[[int, int | None], None]
"""Told how many are done, and of how many; None where that is not known."""

console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
aside = Console(stderr=True, width=None if sys.stderr.isatty() else PIPED_WIDTH)


def meanwhile(as_json: bool) -> Console:
    """Where to say what goes on: beside the answer for a person, away from it for a program."""
    return aside if as_json else console


def colours() -> bool:
    return console.color_system is not None and not console.no_color


def print_json(value: Any) -> None:
    """One JSON value, indented."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_line(value: Any) -> None:
    """One JSON value on one line, at once: a program may wait for it."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


@contextmanager
def progress(done: str, *, shown: bool = True) -> Iterator[Step]:
    """A bar on standard error, where that is a terminal; `shown` says whether nothing else is printed meanwhile."""
    columns = (TextColumn(f"  {done}"), BarColumn(bar_width=22), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=aside, transient=True, disable=not (shown and aside.is_terminal)) as bar:
        task = bar.add_task("", total=None)
        yield lambda count, total: bar.update(task, completed=count, total=total)
