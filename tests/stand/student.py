"""A student service without a model, behind a real port, and any transport of tests as a service on one too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import httpx
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stand.listening import Listening
from understudy.testing import FakeTeacher

__all__ = ["FakeStudent", "listening_teacher"]

LABELS = ["awful", "fine", "great"]


class FakeStudent:
    """Answers `POST /v1/predictions` as a fake teacher would that knows these labels; `keys` are what it was sent."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self._mind = FakeTeacher(("production",))
        app = Starlette(routes=[Route("/v1/predictions", self._predict, methods=["POST"])])
        self._listening = Listening(app)
        self.url = self._listening.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._listening.stop()

    async def _predict(self, request: Request) -> Response:
        self.keys.append(request.headers.get("authorization", ""))
        body = await request.json() | {"labels": LABELS, "model": None}
        asked = httpx.Request("POST", "http://student/v1/predictions", json=body)
        answer = self._mind.handle_request(asked).json()
        return JSONResponse(answer | {"reasons": "gate", "artifact": "model-of-a-test"})


@contextmanager
def listening_teacher(teacher: FakeTeacher) -> Iterator[str]:
    """The fake teacher on a real port; its address."""

    async def passed_on(request: Request) -> Response:
        body = await request.body()
        asked = httpx.Request(request.method, str(request.url), content=body)
        answer = await run_in_threadpool(teacher.handle_request, asked)
        return Response(answer.read(), answer.status_code, media_type="application/json")

    with Listening(Starlette(routes=[Route("/{path:path}", passed_on, methods=["GET", "POST"])])) as listening:
        yield listening.url
