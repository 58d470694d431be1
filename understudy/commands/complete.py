"""What the shell offers behind Tab: jobs, aliases, recipes, methods, models made here. Silent where it knows nothing.

A shell waits for each of these, so a service gets half a second, and no error is shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

__all__ = ["aliases", "jobs", "methods", "recipes", "versions", "with_own_models"]

SECONDS = 0.5
Offered = list[tuple[str, str]]


def _quiet(find: Callable[[typer.Context], Iterable[tuple[str, str]]]) -> Callable[..., Offered]:
    """Of what `find` finds, what begins as what is typed; nothing where it raises."""

    def offer(ctx: typer.Context, incomplete: str) -> Offered:
        found: Offered = []
        with suppress(Exception):  # whatever is wrong, a shell that is being typed into is no place to say so
            found = [(value, about) for value, about in find(ctx) if value.startswith(incomplete)]
        return found

    return offer


@_quiet
def jobs(ctx: typer.Context) -> Iterator[tuple[str, str]]:
    """The newest jobs of the orchestrator that the command would ask."""
    from understudy.client import OrchestratorClient
    from understudy.commands.service import address

    url, _ = address(_given(ctx, "url", "UNDERSTUDY_URL"), _home(ctx))
    with OrchestratorClient(url, api_key=_given(ctx, "api_key", "UNDERSTUDY_API_KEY"), timeout=SECONDS) as client:
        for job in client.jobs():
            yield job["id"], f"{job['status']}, {job['model']}"


@_quiet
def aliases(ctx: typer.Context) -> Iterator[tuple[str, str]]:
    from understudy.artifacts import ArtifactStore

    yield from ArtifactStore(_store(ctx)).aliases().items()


@_quiet
def versions(ctx: typer.Context) -> Iterator[tuple[str, str]]:
    """Aliases, then published models."""
    from understudy.artifacts import ArtifactStore
    from understudy.versions import Versions

    store = ArtifactStore(_store(ctx))
    yield from store.aliases().items()
    for one in Versions(store).all():
        yield one.id, one.recipe or ""


@_quiet
def recipes(_: typer.Context) -> Iterator[tuple[str, str]]:
    """The recipes of one component; they are joined by +."""
    from understudy.training.recipes import AUTO, COMPONENTS

    yield AUTO, "all that fit"
    yield from ((one.name, one.says) for one in COMPONENTS)


@_quiet
def methods(_: typer.Context) -> Iterator[tuple[str, str]]:
    from understudy.attribution.methods import METHODS

    yield from ((name, "") for name in METHODS)


@_quiet
def with_own_models(_: typer.Context) -> Iterator[tuple[str, str]]:
    """Names of models that are made here, one of a family for a beginning, and the folders that hold a model."""
    from understudy.models.names import CUT, FAMILIES, PREFIX

    for family, architecture in FAMILIES.items():
        yield f"{PREFIX}{family}-2x128", f"a fresh {architecture}"
    yield f"{CUT}2", "two layers of the teacher"
    for config in Path().glob("*/config.json"):
        yield str(config.parent), "a folder"


def _given(ctx: typer.Context, name: str, variable: str) -> str | None:
    return _parameters(ctx).get(name) or os.environ.get(variable)


def _home(ctx: typer.Context) -> Path:
    return Path(_parameters(ctx).get("home") or ".understudy")


def _store(ctx: typer.Context) -> str:
    return str(_parameters(ctx).get("artifacts") or _home(ctx) / "artifacts")


def _parameters(ctx: typer.Context) -> dict[str, Any]:
    return dict(ctx.params or {})
