"""Which orchestrator a command asks: the one that is named, else the stack that runs here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.errors import Unavailable

if TYPE_CHECKING:
    from understudy.client import OrchestratorClient

__all__ = ["DEFAULT_HOME", "Home", "Key", "StackHome", "Url", "address", "orchestrator", "settings_of"]

DEFAULT_HOME = Path(".understudy")
USUAL = "http://127.0.0.1:8000"

Home = Annotated[Path, typer.Option(help="The folder of the local stack: who runs there is asked.")]
StackHome = Annotated[
    Path | None,
    typer.Option(
        help="The folder of the stack that is meant; else as UNDERSTUDY_... say, else the one that runs here."
    ),
]
Key = Annotated[str | None, typer.Option(help="Where the service wants a key.", envvar="UNDERSTUDY_API_KEY")]
Url = Annotated[str | None, typer.Option(help="An orchestrator; else the local stack's.", envvar="UNDERSTUDY_URL")]


def address(url: str | None, home: Path) -> tuple[str, str]:
    """The orchestrator's address, and a sentence on why it is that one where it was not named."""
    from understudy.stack import addresses

    if url:
        return url, ""
    for folder in _homes(home):
        if found := addresses(folder):
            return found["orchestrator"], f"That is the stack of {folder}. "
    return USUAL, f"That is the usual address: no stack runs in {home}. "


def settings_of(home: Path | None) -> dict[str, str]:
    """The environment of the service's own commands, for the stack in `home`, whatever else is set around here.

    None: as the settings around here say, and where they say nothing the stack that runs here.
    """
    from understudy.stack import addresses, home_settings

    if home is None and not any(os.environ.get(name) for name in ("UNDERSTUDY_HOME", "UNDERSTUDY_DATABASE_URL")):
        home = next((folder for folder in _homes(DEFAULT_HOME) if addresses(folder)), None)
    return dict(os.environ) | (home_settings(home) if home else {})


def _homes(home: Path) -> tuple[Path, Path]:
    return home, home / "quickstart"


@contextmanager
def orchestrator(url: str | None, home: Path, api_key: str | None) -> Iterator[OrchestratorClient]:
    """A client; where nobody answers, the error says where it looked and what to do."""
    from understudy.client import OrchestratorClient

    place, why = address(url, home)
    try:
        with OrchestratorClient(place, api_key=api_key) as client:
            yield client
    except Unavailable as error:
        if "does not answer" in error.message:
            error.message += f" {why}`understudy up` starts a stack; --url names another."
        raise
