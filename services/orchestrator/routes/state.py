"""What lives as long as the application, and how a route asks for it."""

from __future__ import annotations

from typing import Annotated, TypedDict

from fastapi import Depends, Request

from services.orchestrator.context import Context
from services.orchestrator.dispatch import Sweeper

__all__ = ["State", "TheContext", "TheSweeper"]


class State(TypedDict):
    context: Context
    sweeper: Sweeper


def _context(request: Request) -> Context:
    return request.state.context


def _sweeper(request: Request) -> Sweeper:
    return request.state.sweeper


TheContext = Annotated[Context, Depends(_context)]
TheSweeper = Annotated[Sweeper, Depends(_sweeper)]
