"""`understudy keys`: make, list and revoke the orchestrator's API keys, where its database is.

A library imports no service, so this starts the service's own command by name and shows what it says.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from understudy.commands.output import Json, aside, console, print_json, when
from understudy.commands.service import StackHome, settings_of
from understudy.errors import InvalidRequest, StageFailed, from_body
from understudy.keys import Scope

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="API keys of the orchestrator: who may read, submit jobs, or do all.")

_COMMAND = (sys.executable, "-m", "services.orchestrator.admin", "keys")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, for people.")],
    scope: Annotated[Scope, typer.Option(help="What it may do; each includes the one before.")],
    expires: Annotated[str | None, typer.Option(help="As 90d, 12h or 30m; else never.")] = None,
    max_active_jobs: Annotated[int | None, typer.Option(min=0, help="Jobs that have not ended.")] = None,
    max_jobs_per_day: Annotated[int | None, typer.Option(min=0, help="Jobs made in 24 hours.")] = None,
    max_stored_bytes: Annotated[int | None, typer.Option(min=0, help="Bytes of uploaded files.")] = None,
    home: StackHome = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, this once: only its hash is kept."""
    quotas = {
        "--max-active-jobs": max_active_jobs,
        "--max-jobs-per-day": max_jobs_per_day,
        "--max-stored-bytes": max_stored_bytes,
        "--expires-in": None if expires is None else _seconds(expires),
    }
    given = [part for option, value in quotas.items() if value is not None for part in (option, str(value))]
    made = _ask(home, "create", "--scope", scope, *given, "--", name)
    if as_json:
        return print_json(made)
    print(made["key"])
    aside.print(
        f"[dim]{made['id']}, {scope}, {_until(made)}. The key is shown this once. Send it as "
        "'Authorization: Bearer ...'; the command line takes it from UNDERSTUDY_API_KEY.[/]",
        highlight=False,
        soft_wrap=True,
    )


@app.command("list")
def list_keys(home: StackHome = None, as_json: Json = False) -> None:
    """Every key, the newest first: whose, for what, how long, when last used, and its quotas."""
    found = _ask(home, "list")["data"]
    if as_json:
        return print_json(found)
    if not found:
        console.print("There is no key: only this machine may use the service, and needs none.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("id\nname", "scope\nkey", "state\nlast used", "quotas"):
        table.add_column(column, overflow="fold", no_wrap=column == "id\nname")
    for one in found:
        state = one["state"] if one["state"] != "active" else _until(one)
        used = when(one["last_used_at"]) if one["last_used_at"] else "never used"
        cells = (f"{one['id']}\n{one['name']}", f"{one['scope']}\n{one['hint']}", f"{state}\n{used}")
        table.add_row(*map(escape, (*cells, _quotas(one["quotas"]))))
    console.print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `understudy keys list` shows it.")],
    home: StackHome = None,
    as_json: Json = False,
) -> None:
    """Shut a key out for good. What it has made stays."""
    found = _ask(home, "revoke", "--", key_id)
    if as_json:
        return print_json(found)
    console.print(
        f"{found['id']} ({escape(found['name'])}) opens nothing any more, within a few seconds.", highlight=False
    )


def _ask(home: Path | None, *arguments: str) -> dict[str, Any]:
    """What the service's command answers. Raises the error that it says."""
    done = subprocess.run([*_COMMAND, *arguments], env=settings_of(home), capture_output=True, text=True)
    if done.returncode == 0:
        return dict(json.loads(done.stdout))
    last = (done.stderr.strip().splitlines() or [""])[-1]
    try:
        raise from_body(500, json.loads(last))
    except json.JSONDecodeError:
        raise StageFailed(f"the service's command ended with code {done.returncode}: {last[:300]}") from None


def _seconds(text: str) -> float:
    """`90d` -> 7776000.0. Raises InvalidRequest."""
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip())
    if not found or not int(found[1]):
        raise InvalidRequest(f"'{text}' is no time: write it as 90d, 12h or 30m", param="--expires")
    return float(int(found[1]) * _SECONDS[found[2]])


def _until(key: dict[str, Any]) -> str:
    return f"until {when(key['expires_at'])}" if key["expires_at"] else "no end"


def _quotas(quotas: dict[str, int | None]) -> str:
    """`{"max_active_jobs": 3}` -> `3 active jobs`."""
    named = {"max_active_jobs": "active jobs", "max_jobs_per_day": "jobs a day", "max_stored_bytes": "bytes"}
    return ", ".join(f"{value:,} {named[name]}" for name, value in quotas.items() if value is not None)
