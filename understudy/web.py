"""What every service shares at its edge: the error shape, request ids, body limits, health. Knows no route of theirs.

Only this module and the routes know HTTP. Everything below raises errors from `understudy.errors`.
"""

from __future__ import annotations

import gc
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from understudy.errors import (
    InternalError,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    UnderstudyError,
    UnsupportedContent,
)
from understudy.logs import configure
from understudy.schemas import ErrorBody

__all__ = ["Readiness", "make_app", "serve"]

log = structlog.get_logger()

Readiness = Callable[[Request], Awaitable[Mapping[str, Any]]]
"""Answers details of a service that is ready, or raises Unavailable with the reason."""

_HEALTH = ("/livez", "/readyz")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ERROR_ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "A field is wrong; `error.param` names it",
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
) -> FastAPI:
    """A FastAPI application with health routes and the one error shape.

    `max_body` is in bytes; `max_body_at` has other bounds for some paths, such as where files are uploaded.
    """
    app = FastAPI(title=title, description=description, lifespan=lifespan, responses=_ERROR_ANSWERS)
    app.add_exception_handler(UnderstudyError, _answer_understudy)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_defect)
    app.add_middleware(_Edge, max_body=max_body, max_body_at=max_body_at or {})

    @app.get("/livez", tags=["health"], summary="The event loop runs")
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], summary="The service can do its work")
    async def readyz(request: Request) -> dict[str, Any]:
        return {"status": "ok", **await ready(request)}

    return app


def serve(service: str, app: FastAPI, host: str, port: int) -> None:
    """Answer requests until a signal comes, with the logs of all libraries in our one shape."""
    configure(service)
    # The libraries' half a million objects never go away: walking them at each full collection would stop requests
    # for a third of a second.
    gc.collect()
    gc.freeze()
    uvicorn.run(app, host=host, port=port, log_config=None)


def render(error: UnderstudyError) -> JSONResponse:
    headers = {"Retry-After": str(max(1, round(error.retry_after)))} if error.retry_after is not None else None
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


async def _answer_understudy(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, UnderstudyError)
    if error.status >= 500 and request.url.path not in _HEALTH:
        log.warning("request_failed", code=error.code, message=error.message)
    return render(error)


async def _answer_validation(request: Request, error: Exception) -> JSONResponse:
    """Turn the first of pydantic's complaints into our shape; the message counts the others."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    content_type = request.headers.get("content-type", "")
    where = [part for part in first["loc"] if part not in ("body", "query", "path")]
    if not where and first["loc"][:1] == ("body",) and content_type and not _is_read(content_type):
        return render(
            UnsupportedContent(f"content type '{content_type[:100]}' is not read here: send application/json")
        )
    if first["type"] == "json_invalid":
        where = []  # it is a place in the text
    param = _field_path(where) or (str(first["loc"][0]) if first["loc"] else None)
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


async def _answer_defect(request: Request, error: Exception) -> JSONResponse:
    """A defect of ours: the cause goes to the log under the request's id, never to the caller."""
    log.error("defect", path=request.url.path, exc_info=error)
    return render(InternalError("an unexpected error occurred: the service's log has it under this request's id"))


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
    if kind == "json_invalid":
        return f"the body is not valid JSON ({context.get('error', 'syntax error')})"
    return str(error["msg"]).removeprefix("Value error, ")


class _Edge:
    """Bounds the body, also where no Content-Length is sent; gives each request an id, on its answer and in the log."""

    def __init__(self, app: ASGIApp, max_body: int, max_body_at: Mapping[str, int]) -> None:
        self.app = app
        self.max_body = max_body
        self.max_body_at = max_body_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        status, began = 0, time.perf_counter()

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode("latin-1"))]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._bounded(scope, receive, tagged)
            except PayloadTooLarge as error:
                if status:
                    raise
                await render(error)(scope, receive, tagged)
            finally:
                if (scope["method"] != "GET" or status >= 400) and scope["path"] not in _HEALTH:
                    spent = round(1000 * (time.perf_counter() - began), 1)
                    log.info("request", method=scope["method"], path=scope["path"], status=status, ms=spent)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = self.max_body_at.get(scope["path"], self.max_body)
        too_large = PayloadTooLarge(f"the body is larger than the {most} bytes that are accepted here")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > most:
            raise too_large
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise too_large
            return message

        await self.app(scope, counted, send)
