"""`understudy gc`: the orchestrator's own garbage collection, by the command of its service."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer

from understudy.commands.output import Json
from understudy.commands.service import StackHome, settings_of

__all__ = ["gc"]


def gc(
    home: StackHome = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would go, and why the rest stays.")
    ] = False,
    as_json: Json = False,
    now: Annotated[bool, typer.Option("--now", help="What is marked goes at once, not a grace period later.")] = False,
    adopt: Annotated[bool, typer.Option("--adopt", help="Take over a store that another database has filled.")] = False,
) -> None:
    """Remove what no job, alias or file needs any more from the artifact store."""
    given = {"--dry-run": dry_run, "--json": as_json, "--now": now, "--adopt": adopt}
    options = [name for name, is_given in given.items() if is_given]
    command = [sys.executable, "-m", "services.orchestrator.garbage", *options]
    raise typer.Exit(subprocess.run(command, env=settings_of(home)).returncode)
