"""What lives as long as the application, how a route gets at it, and what all routes say of errors and deadlines."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from fastapi import Depends, Header, Request

from services.student.desk import Desk
from understudy.schemas import ErrorBody

__all__ = ["ERRORS", "FOREVER", "Patience", "State", "TheDesk"]

ERRORS: dict[int | str, dict[str, Any]] = {
    422: {"model": ErrorBody, "description": "The model cannot do what was asked of it"},
    500: {"model": ErrorBody, "description": "The model's stored files are damaged"},
    504: {"model": ErrorBody, "description": "No answer before the request's deadline"},
}


class State(TypedDict):
    """What lives as long as the application."""

    desk: Desk


async def _desk(request: Request) -> Desk:  # a plain function would be run on a thread of its own
    return request.state.desk  # type: ignore[no-any-return]


TheDesk = Annotated[Desk, Depends(_desk)]

FOREVER = 86_400.0
"""What a request that says nothing of its deadline waits, as far as the service lets it."""

Patience = Annotated[
    float,
    Header(
        alias="X-Request-Timeout",
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which the caller wants no answer any more; the service's own bound holds too",
    ),
]
