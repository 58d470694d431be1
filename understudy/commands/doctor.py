"""`understudy doctor`: what is here, what is not as it should be, and what to do about it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from understudy.commands.exits import Exit
from understudy.commands.output import Json, console, print_json
from understudy.commands.service import DEFAULT_HOME, Home, Key, Url

if TYPE_CHECKING:
    from understudy.doctor import Finding

__all__ = ["doctor"]

_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "bold red")}


def doctor(
    url: Url = None,
    api_key: Key = None,
    home: Home = DEFAULT_HOME,
    seconds: Annotated[float, typer.Option(min=1, help="How long it may take at most.")] = 20,
    as_json: Json = False,
) -> None:
    """Look at what is installed, the machine and the services, and say what to do about each problem."""
    from understudy.doctor import Place, examine

    found: list[Finding] = []
    for one in examine(Place(home, url, api_key), seconds):
        found.append(one)
        if not as_json:
            console.print(_line(one))
    counts = Counter(one.state for one in found)
    if as_json:
        print_json({"problems": counts["problem"], "findings": [dataclasses.asdict(one) for one in found]})
    else:
        console.print(_sum(counts["problem"], counts["warning"]))
    raise typer.Exit(Exit.NO if counts["problem"] else Exit.OK)


def _line(one: Finding) -> Table:
    sign, style = _SIGNS[one.state]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=3, justify="right")
    grid.add_column(width=15)
    grid.add_column(overflow="fold")
    grid.add_row(Text(sign, style), Text(one.name, style if one.state != "ok" else ""), Text(one.says))
    if one.fix:
        grid.add_row("", "", Text(f"→ {one.fix}", "bold"))
    return grid


def _sum(problems: int, warnings: int) -> Text:
    if problems:
        return Text(f"\n  {problems} {'problem' if problems == 1 else 'problems'} to solve.", "bold red")
    if warnings:
        noun = "1 thing" if warnings == 1 else f"{warnings} things"
        return Text(f"\n  No problem; {noun} to know.", "bold yellow")
    return Text("\n  All is well.", "bold green")
