"""What lives as long as the application, and how a route gets at it."""

from __future__ import annotations

from typing import Annotated, TypedDict

from fastapi import Depends, Request

from services.teacher.desk import Desk
from services.teacher.readiness import Readiness

__all__ = ["State", "TheDesk"]


class State(TypedDict):
    """What lives as long as the application."""

    desk: Desk
    readiness: Readiness


async def _desk(request: Request) -> Desk:  # a plain function would be run on a thread of its own
    return request.state.desk  # type: ignore[no-any-return]


TheDesk = Annotated[Desk, Depends(_desk)]
