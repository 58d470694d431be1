"""`understudy models`: list, show, promote and roll back versions, in a store at hand or by an orchestrator's HTTP."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from understudy.commands import complete
from understudy.commands.output import Json, console, print_json, when
from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from understudy.aliases import Move
    from understudy.versions import Shown, Version

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Versions of the published models, and which one serves under an alias.")

Home = Annotated[Path, typer.Option(help="The folder of the stack whose artifacts are meant.")]
Store = Annotated[
    str | None, typer.Option("--artifacts", help="The root of an artifact store, a folder or URL; else HOME's.")
]
Url = Annotated[str | None, typer.Option(help="An orchestrator whose models are meant.")]
Key = Annotated[str | None, typer.Option(help="Where the orchestrator wants a key.", envvar="UNDERSTUDY_API_KEY")]
Expected = Annotated[
    str | None, typer.Option("--expected", help="The artifact that the alias names now; else nothing is done.")
]


class _Door(Protocol):
    """`Versions`, at hand or behind HTTP."""

    def all(self) -> list[Version]: ...
    def show(self, name: str) -> Shown: ...
    def promote(
        self, alias: str, version: str, *, by: str | None, force: bool = False, expected: str | None = None
    ) -> Move: ...
    def rollback(self, alias: str, *, by: str | None, expected: str | None = None) -> Move: ...


@app.command("list")
def list_models(
    home: Home = Path(".understudy"),
    artifacts: Store = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Every published model, the newest first: when, by which job, its accuracy and verdict, and who names it."""
    found = _door(home, artifacts, url, api_key).all()
    if as_json:
        return print_json([one.model_dump(mode="json") for one in found])
    if not found:
        console.print("No model is published yet.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("version", "alias", "published", "accuracy %", "job"):
        table.add_column(name, no_wrap=name == "version", overflow="fold")
    for one in found:
        table.add_row(one.id, ", ".join(one.aliases), when(one.created), _accuracy(one), one.job or "")
    console.print(table)


@app.command()
def show(
    model: Annotated[
        str, typer.Argument(autocompletion=complete.versions, help="A version's id, or an alias, which has a history.")
    ],
    home: Home = Path(".understudy"),
    artifacts: Store = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """One model: its task, accuracy and verdict; of an alias also who moved it when, and what it can go back to."""
    with _as_arguments():
        found = _door(home, artifacts, url, api_key).show(model)
    if as_json:
        return print_json(found.model_dump(mode="json"))
    lines = {
        "version": found.id,
        "aliases": ", ".join(found.aliases) or "none",
        "published": when(found.created),
        "job": found.job or "unknown",
        "recipe": found.recipe or "unknown",
        "task": f"{found.task.kind} {', '.join(found.task.labels)}".strip() if found.task else "unknown",
        "accuracy": f"{_accuracy(found)} % on the test split" if found.accuracy is not None else "unknown",
        "verdict": found.verdict or found.problem or "unknown",
    }
    if found.back:
        lines["goes back to"] = ", ".join(found.back)
    for name, line in lines.items():
        console.print(f"  {name:<14}{escape(line)}", highlight=False, soft_wrap=True)
    for one in found.history:
        console.print(f"  {one.number:>4}  {_moved(one)}", highlight=False, soft_wrap=True)


@app.command()
def promote(
    alias: Annotated[str, typer.Argument(autocompletion=complete.aliases, help="The name that moves, as production.")],
    model: Annotated[
        str, typer.Argument(autocompletion=complete.versions, help="A version's id, or another alias, as canary.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Even where it answers another task.")] = False,
    expected: Expected = None,
    home: Home = Path(".understudy"),
    artifacts: Store = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Let ALIAS name MODEL from now on. Refused for a model that is missing, damaged, or of another task."""
    with _as_arguments():
        door = _door(home, artifacts, url, api_key)
        _tell(alias, door.promote(alias, model, by=_user(), force=force, expected=expected), as_json)


@app.command()
def rollback(
    alias: Annotated[str, typer.Argument(autocompletion=complete.aliases, help="The name that moves, as production.")],
    expected: Expected = None,
    home: Home = Path(".understudy"),
    artifacts: Store = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Let ALIAS name what it named before its present model; again, what it named before that."""
    with _as_arguments():
        _tell(alias, _door(home, artifacts, url, api_key).rollback(alias, by=_user(), expected=expected), as_json)


def _door(home: Path, artifacts: str | None, url: str | None, api_key: str | None) -> _Door:
    from understudy.artifacts import ArtifactStore
    from understudy.versions import Versions, VersionsClient

    if url:
        return VersionsClient(url, api_key=api_key)
    return Versions(ArtifactStore(artifacts or home / "artifacts"))


@contextmanager
def _as_arguments() -> Iterator[None]:
    """An error about a field is one about the argument that set it."""
    try:
        yield
    except UnderstudyError as error:
        error.param = {"model": "MODEL", "alias": "ALIAS", "expected": "--expected"}.get(error.param or "", error.param)
        raise


def _tell(alias: str, move: Move, as_json: bool) -> None:
    if as_json:
        return print_json(move.model_dump(mode="json"))
    console.print(f"{escape(alias)}  {_moved(move)}", highlight=False, soft_wrap=True)


def _moved(move: Move) -> str:
    by = f" by {move.by}" if move.by else ""
    return escape(f"{when(move.at)}  {move.how}{by}: {move.before or 'nothing'} -> {move.artifact}")


def _accuracy(one: Version) -> str:
    if one.accuracy is None or one.low is None or one.high is None:
        return ""
    return f"{100 * one.accuracy:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container whose user has no name
        return None
