"""What every service shares: the one error shape, health, metrics, and the edge around it. Knows no route of theirs.

Only this module, `edge` and the routes know HTTP. Everything below raises errors from `understudy.errors`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import Lifespan

from understudy.edge import HEALTH, Edge, render
from understudy.errors import InvalidRequest, NotFound, Unavailable, UnderstudyError, UnsupportedContent
from understudy.keys import Guard, Keys
from understudy.metrics import Metrics
from understudy.schemas import ErrorBody

__all__ = ["Readiness", "make_app"]

log = structlog.get_logger()

Readiness = Callable[[Request], Awaitable[Mapping[str, Any]]]
"""Answers details of a service that is ready, or raises Unavailable with the reason."""

METRICS = "/metrics"

_ERROR_ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "A field is wrong; `error.param` names it",
        401: "The API key is missing or not known here",
        403: "The API key may not do this",
        404: "No such thing",
        413: "The body is too large",
        415: "The content type is not read here",
        429: "The queue is full; see Retry-After",
        503: "Not ready",
    }.items()
}


def make_app(
    title: str,
    *,
    description: str,
    lifespan: Lifespan[FastAPI],
    ready: Readiness,
    max_body: int,
    max_body_at: Mapping[str, int] | None = None,
    api_keys: Iterable[str] = (),
    guard: Guard | None = None,
    open_paths: Collection[str] = (),
    acting: tuple[str, ...] = (),
    metrics: Metrics | None = None,
    cancel: bool = False,
) -> FastAPI:
    """A FastAPI application with health routes, metrics and the one error shape.

    `max_body` is in bytes; `max_body_at` has other bounds for some paths, such as where files are uploaded. With
    `api_keys` every path needs one of them but health, metrics and the `open_paths`; a `guard` decides in their place.
    Paths that begin like one of `acting` do more than read, whatever the method: see `browsers`.
    `cancel` ends the work on a request whose client has left: for services whose work changes nothing.
    """
    app = FastAPI(title=title, description=description, lifespan=lifespan, responses=_ERROR_ANSWERS)
    app.state.draining = False
    app.state.this_machine_only = False  # whoever binds it to an address knows better: see `server`
    counted = metrics or Metrics()
    app.add_exception_handler(UnderstudyError, _answer_understudy)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_middleware(
        Edge,
        max_body=max_body,
        max_body_at=max_body_at or {},
        guard=guard or Keys(api_keys),
        open_paths=(*HEALTH, METRICS, *open_paths),
        acting=acting,
        metrics=counted,
        cancel=cancel,
    )

    @app.get("/livez", tags=["health"], summary="The event loop runs")
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], summary="The service can do its work")
    async def readyz(request: Request) -> dict[str, Any]:
        if app.state.draining:
            raise Unavailable("the service is shutting down: it answers what has reached it, and nothing new is for it")
        return {"status": "ok", **await ready(request)}

    @app.get(
        METRICS,
        tags=["health"],
        summary="Counters and gauges in Prometheus' text format",
        response_class=PlainTextResponse,
    )
    async def measured() -> Response:
        # In a thread: a service may ask its database for some of it.
        return Response(await run_in_threadpool(counted.text), media_type=Metrics.content_type)

    return app


async def _answer_understudy(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, UnderstudyError)
    if error.status >= 500 and request.url.path not in HEALTH:
        log.warning("request_failed", code=error.code, message=error.message)
    return render(error)


async def _answer_validation(request: Request, error: Exception) -> JSONResponse:
    """Turn the first of pydantic's complaints into our shape; the message counts the others."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    content_type = request.headers.get("content-type", "")
    where = [part for part in first["loc"] if part not in ("body", "query", "path", "header")]
    if not where and first["loc"][:1] == ("body",) and content_type and not _is_read(content_type):
        return render(
            UnsupportedContent(f"content type '{content_type[:100]}' is not read here: send application/json")
        )
    if first["type"] == "json_invalid":
        where = []  # it is a place in the text
    whole = first["loc"][1:2] if first["loc"][:1] == ("header",) else first["loc"][:1]
    param = _field_path(where) or next(map(str, whole), None)
    # A list that lost a bad item is then too short: that is the same complaint.
    more = sum(other["type"] != "too_short" for other in error.errors()[1:])
    message = f"{param}: {_complaint(first)}" + (f" (and {more} more)" if more else "")
    return render(InvalidRequest(message, param=param))


async def _answer_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, UnderstudyError):  # FastAPI re-words what is raised while it reads a body
        return render(error.__cause__)
    if error.status_code == 404:
        return render(NotFound("no such address: see /docs for those there are"))
    answer = InvalidRequest(str(error.detail)).body()
    if error.status_code == 405:
        answer["error"] |= {"code": "method_not_allowed"}
    return JSONResponse(answer, status_code=error.status_code, headers=error.headers)


def _is_read(content_type: str) -> bool:
    kind = content_type.split(";")[0].strip().lower()
    return kind in ("application/json", "multipart/form-data") or kind.endswith("+json")


def _field_path(parts: list[Any]) -> str:
    """`["examples", 3, "input"]` -> `examples[3].input`; the names of union members that pydantic adds are left out."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif re.fullmatch(r"[a-z_][a-z0-9_]*", str(part)) and part not in (
            "str",
            "int",
            "float",
            "bool",
            "constrained-str",
        ):
            path += f".{part}" if path else str(part)
    return path


def _complaint(error: Mapping[str, Any]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return "this field is required"
    if kind == "extra_forbidden":
        return "there is no such field"
    if kind == "none_required":
        return "this is not offered here: leave it out"
    if kind == "json_invalid":
        return f"the body is not valid JSON ({context.get('error', 'syntax error')})"
    return str(error["msg"]).removeprefix("Value error, ")
