"""What happens to every request before a route sees it and after: its bounds, its key, its id, its log line, its end.

An ASGI middleware around a whole application. Knows no route; what it refuses has the one error shape.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import structlog
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from understudy import tracing
from understudy.browsers import refuse_foreign_pages
from understudy.errors import InternalError, PayloadTooLarge, Unauthorized, UnderstudyError
from understudy.keys import Guard
from understudy.metrics import Metrics

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ["HEALTH", "Edge", "render"]

log = structlog.get_logger()

HEALTH = ("/livez", "/readyz")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Not from the system: asking it lets go of the interpreter's lock, and a thread that computes keeps that for a while.
_numbers = random.Random()
_CLIENT_LEFT = 499  # nginx's number for it; nobody is left to read it but the log and the metrics


def render(error: UnderstudyError) -> JSONResponse:
    """The answer that says what went wrong."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 429 and not error.retryable:
        headers["x-should-retry"] = "false"  # OpenAI's clients try again at any other 429
    told = {name: _readable(value) for name, value in error.body()["error"].items()}
    return JSONResponse({"error": told}, status_code=error.status, headers=headers)


def _readable(value: Any) -> Any:
    """A text without lone surrogates: what is quoted from a request may hold them, and no answer can."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


class Edge:
    """Bounds the body, also where no Content-Length is sent; has `guard` say who asks; gives each request an id, on
    its answer and in the log; counts it; and, with `cancel`, ends the work of a request whose client has left.

    While the application's `state.draining` is true, every answer asks its client to connect anew, elsewhere.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body: int,
        max_body_at: Mapping[str, int],
        guard: Guard,
        open_paths: Collection[str],
        acting: tuple[str, ...],
        metrics: Metrics,
        cancel: bool,
    ) -> None:
        self.app = _WhileConnected(app) if cancel else app
        self.max_body = max_body
        self.max_body_at = max_body_at
        self.guard = guard
        self.open_paths = frozenset(open_paths)
        self.acting = acting
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"{_numbers.getrandbits(128):032x}"
        status, began = 0, time.perf_counter()

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode("latin-1"))]
                if scope["app"].state.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        self.metrics.began()
        with _traced(scope) as span, structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._admitted(scope, receive, tagged)
            except _ClientLeft:
                status = _CLIENT_LEFT
            except Exception as error:
                if status:
                    raise  # half an answer is out already; the server closes the connection, which says so
                await render(_told(error, scope))(scope, receive, tagged)
            finally:
                self._ended(scope, status or _CLIENT_LEFT, time.perf_counter() - began)
                if span is not None:
                    tracing.answered(span, scope["method"], _route(scope), status or _CLIENT_LEFT)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on whose key is right, and no more of its body than it may have."""
        if scope["path"] not in self.open_paths:
            await self._check_caller(scope)
        headers = dict(scope["headers"])
        most = self.max_body_at.get(scope["path"], self.max_body)
        too_large = PayloadTooLarge(f"the body is larger than the {most} bytes that are accepted here")
        declared = headers.get(b"content-length", b"0")
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

    async def _check_caller(self, scope: Scope) -> None:
        """Let nobody pass but whom the guard knows; routes find the caller in the request's state, and no key."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) > 1:  # what stands before us may have believed the other one
            raise Unauthorized("there are several Authorization headers: send one")
        caller = await self.guard.admit(scope, given[0].decode("latin-1") if given else None)
        if not caller.id and scope["app"].state.this_machine_only:
            refuse_foreign_pages(scope["method"], scope["headers"], acts=scope["path"].startswith(self.acting))
        scope.setdefault("state", {})["caller"] = caller
        if caller.id:  # nothing behind this needs the key, and what is not there is in no log and no traceback
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"authorization"]

    def _ended(self, scope: Scope, status: int, seconds: float) -> None:
        self.metrics.ended(scope["method"], _route(scope), status, seconds)
        if (scope["method"] != "GET" or status >= 400) and scope["path"] not in HEALTH:
            spent = round(1000 * seconds, 1)
            log.info("request", method=scope["method"], path=scope["path"], status=status, ms=spent)


def _route(scope: Scope) -> str | None:
    return getattr(scope.get("route"), "path", None)


def _traced(scope: Scope) -> AbstractContextManager[Span | None]:
    if not tracing.is_on() or scope["path"] in HEALTH or scope["path"] == "/metrics":
        return nullcontext()
    parent = dict(scope["headers"]).get(tracing.HEADER.encode(), b"").decode("latin-1")
    return tracing.span(scope["method"], parent=parent, kind="SERVER")


class _ClientLeft(Exception):
    """The client closed its connection before the answer was complete."""


class _WhileConnected:
    """Cancels the application's work on a request whose client has left, which servers do not do by themselves.

    It listens from where the body ends, if there is one. An application that listens too is told what this has heard.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        work = asyncio.current_task()
        assert work is not None
        listener: asyncio.Task[None] | None = None
        left = answered = False
        early: list[Message] = []

        async def listen() -> None:
            nonlocal left
            while (await receive())["type"] != "http.disconnect":
                pass
            if not answered:
                left = True
                work.cancel()

        async def heard() -> Message:
            nonlocal listener
            if early:
                return early.pop()
            if listener is not None:
                await asyncio.shield(listener)
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                listener = asyncio.create_task(listen())
            return message

        async def sent(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        if _has_no_body(scope):  # then the application may never ask for it
            early.append(await heard())
        try:
            await self.app(scope, heard, sent)
        except asyncio.CancelledError:
            if left and work.uncancel() == 0:
                raise _ClientLeft from None
            raise  # somebody else wants the end of it
        finally:
            if listener is not None:
                listener.cancel()


def _has_no_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"


def _told(error: Exception, scope: Scope) -> UnderstudyError:
    """What a caller may know of an error. The cause of a defect of ours goes to the log, under the request's id."""
    if isinstance(error, UnderstudyError):
        return error
    log.error("defect", path=scope["path"], exc_info=error)
    return InternalError("an unexpected error occurred: the service's log has it under this request's id")
