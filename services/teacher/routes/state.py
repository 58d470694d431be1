"""What lives as long as the application, and how a route gets at it."""

from __future__ import annotations

from typing import Annotated, TypedDict

from fastapi import Depends, Request

from services.teacher.engine import Engine
from services.teacher.readiness import Readiness
from understudy.batching import ModelThread

__all__ = ["State", "TheEngine", "TheThread"]


class State(TypedDict):
    """What lives as long as the application."""

    engine: Engine
    thread: ModelThread
    readiness: Readiness


def _engine(request: Request) -> Engine:
    return request.state.engine  # type: ignore[no-any-return]


def _thread(request: Request) -> ModelThread:
    return request.state.thread  # type: ignore[no-any-return]


TheEngine = Annotated[Engine, Depends(_engine)]
TheThread = Annotated[ModelThread, Depends(_thread)]
