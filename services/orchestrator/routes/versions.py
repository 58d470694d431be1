"""Versions of the published models, and the aliases that move between them: `understudy.versions` over HTTP.

A promote and a rollback change what everybody is answered: they are for the scope `admin`.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from services.orchestrator.routes.state import TheCaller, TheContext
from services.orchestrator.wire import Page
from understudy.aliases import Move
from understudy.versions import Shown, Version, Versions

__all__ = ["router"]

_MOVES: dict[int | str, dict[str, Any]] = {
    409: {"description": "Another task, nothing to go back to, or the alias has moved"},
    500: {"description": "The model's stored files are damaged"},
}

router = APIRouter(prefix="/v1", tags=["models"])


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    expected: str | None = Field(default=None, description="The artifact that the alias names now; else 409")


class Promotion(_Body):
    model: str = Field(description="A version's id, or another alias")
    force: bool = Field(default=False, description="Even where it answers another task than the alias' present model")


class Rollback(_Body):
    pass


@router.get("/versions", summary="Every published model with its job, accuracy and verdict, newest first")
def list_versions(context: TheContext) -> Page[Version]:
    return Page(data=Versions(context.artifacts).all())


@router.get("/versions/{model}", summary="A version by its id or an alias, with the alias' history")
def show(context: TheContext, model: str) -> Shown:
    return Versions(context.artifacts).show(model)


@router.post("/models/{alias}/promote", summary="Let an alias name a version from now on", responses=_MOVES)
def promote(context: TheContext, caller: TheCaller, alias: str, body: Promotion) -> Move:
    return Versions(context.artifacts).promote(
        alias, body.model, by=caller.id or "http", force=body.force, expected=body.expected
    )


@router.post("/models/{alias}/rollback", summary="Let an alias name what it named before", responses=_MOVES)
def rollback(context: TheContext, caller: TheCaller, alias: str, body: Rollback = Rollback()) -> Move:  # noqa: B008
    return Versions(context.artifacts).rollback(alias, by=caller.id or "http", expected=body.expected)
