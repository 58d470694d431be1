"""Which orchestrator a command asks: the one that is named, else the stack that runs here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.errors import Unavailable

if TYPE_CHECKING:
    from understudy.client import OrchestratorClient

__all__ = ["DEFAULT_HOME", "Home", "Key", "Url", "address", "orchestrator"]

DEFAULT_HOME = Path(".understudy")
USUAL = "http://127.0.0.1:8000"

Home = Annotated[Path, typer.Option(help="The folder of the local stack: who runs there is asked.")]
Key = Annotated[str | None, typer.Option(help="Where the service wants a key.", envvar="UNDERSTUDY_API_KEY")]
Url = Annotated[str | None, typer.Option(help="An orchestrator; else the local stack's.", envvar="UNDERSTUDY_URL")]


def address(url: str | None, home: Path) -> tuple[str, str]:
    """The orchestrator's address, and a sentence on why it is that one where it was not named."""
    from understudy.stack import addresses

    if url:
        return url, ""
    for folder in (home, home / "quickstart"):
        if found := addresses(folder):
            return found["orchestrator"], f"That is the stack of {folder}. "
    return USUAL, f"That is the usual address: no stack runs in {home}. "


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
