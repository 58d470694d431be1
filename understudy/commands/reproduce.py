"""`understudy reproduce`: an arm of a report trained again; see `understudy.reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.commands.exits import Exit
from understudy.commands.fields import wrong_use
from understudy.commands.output import Json, console

__all__ = ["reproduce"]


def reproduce(
    report: Annotated[str, typer.Argument(help="A report.json, a published model's folder, or an artifact.")],
    arm: Annotated[str | None, typer.Option(help="The recipe; else the published one.")] = None,
    seed: Annotated[int | None, typer.Option(help="Else the published one, or the arm's first.")] = None,
    size: Annotated[int | None, typer.Option(help="The point of the learning curve; else all rows.")] = None,
    artifacts: Annotated[Path | None, typer.Option(help="The store with its data; else where REPORT lies.")] = None,
    as_json: Json = False,
) -> None:
    """Train an arm of REPORT again and say whether its figures come out: exit status 0 if they do, 1 if not."""
    from understudy import reproduce as reproduction

    with wrong_use("report", "arm", "seed"):
        asked: dict[str, Any] = {"reference": report, "arm": arm, "seed": seed, "size": size, "artifacts": artifacts}
        found = reproduction.show(console, as_json=as_json, **asked)
    raise typer.Exit(Exit.OK if found.confirmed else Exit.NO)
