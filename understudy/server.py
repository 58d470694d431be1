"""Answering at an address until a signal comes, and ending without losing a request. Knows no route.

On SIGTERM the service says that it is not ready, so that nothing new is sent to it, and still answers what comes for a
while; then it stops listening and ends what it has accepted.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any

import h11
import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from understudy import tracing
from understudy.browsers import is_loopback
from understudy.errors import InvalidRequest
from understudy.logs import configure

__all__ = ["keep_memory", "refuse_open_door", "serve"]

log = structlog.get_logger()

_LAST_CALL = 0.3  # seconds in which what has connected already may still send its request

_LOG_DELAY = 0.1  # seconds
_KEEP_ALIVE = 75  # seconds that a connection may rest: balancers keep theirs for 60, and the last one to let go is safe

# Options of glibc's mallopt(3), and the bytes that they are set to.
_TRIM_THRESHOLD, _KEPT = -1, 256 * 2**20
_MMAP_THRESHOLD, _LARGEST = -3, 32 * 2**20  # no more is allowed


def serve(
    service: str, app: FastAPI, host: str, port: int, *, drain_seconds: float = 0.0, allow_anonymous: bool = False
) -> None:
    """Answer requests until a signal comes, with the logs of all libraries in our one shape.

    After SIGTERM `drain_seconds` more pass in which every request is answered and every connection then closed. Where
    `host` is this machine's own and no key is needed, pages from elsewhere are refused (see `browsers`), unless
    `allow_anonymous`: somebody has opened it on purpose.
    """
    configure(service, delay=_LOG_DELAY)
    tracing.configure(service)
    keep_memory()
    app.state.this_machine_only = is_loopback(host) and not allow_anonymous
    # The libraries' half a million objects never go away: walking them at each full collection would stop requests
    # for a third of a second.
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # each request has its line: see `edge`
        http=_Protocol,
        timeout_keep_alive=_KEEP_ALIVE,
    )
    _Server(config, app, drain_seconds).run()


def refuse_open_door(host: str, *, guarded: bool, setting: str, make_key: str = "") -> None:
    """Raise InvalidRequest for an address that other machines reach where nothing guards it.

    `setting` is how the service's settings begin; `make_key` is the command that makes a key, where there is one.
    """
    if guarded or is_loopback(host):
        return
    first = f"make one (`{make_key}`) or set" if make_key else "set"
    raise InvalidRequest(
        f"host is '{host}', which other machines reach, and no API key is set: {first} {setting}_API_KEYS, or listen "
        f"on 127.0.0.1, or set {setting}_ALLOW_ANONYMOUS=true where anybody who reaches it may use it",
        param="host",
    )


def keep_memory() -> None:
    """Let glibc keep what a batch has freed for the next one.

    By itself it hands the buffers of a model's thread back to the system and takes them anew in each pass, page by
    page. Where there is no glibc, nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_MMAP_THRESHOLD, _LARGEST)


class _Connection(h11.Connection):
    """Gives out an answer's head with the first of its body, if that comes in the same step of the event loop.

    Each write lets go of the interpreter's lock, and a thread that computes may hold that for milliseconds.
    """

    def __init__(self, protocol: H11Protocol) -> None:
        super().__init__(h11.SERVER)
        self._protocol = protocol
        self._head = b""

    def send(self, event: Any) -> Any:
        data = super().send(event)
        if isinstance(event, h11.Response):
            self._head = data or b""
            asyncio.get_running_loop().call_soon(self._send_head)
            return b""
        if self._head and data is not None:
            data, self._head = self._head + data, b""
        return data

    def _send_head(self) -> None:
        head, self._head = self._head, b""
        if not self._protocol.transport.is_closing():
            self._protocol.transport.write(head)


class _Protocol(H11Protocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Connection(self)


class _Server(uvicorn.Server):
    """Uvicorn closes its socket at the first signal, which fails those who have connected and not sent yet."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at SIGTERM; end at the second signal, or at the first Ctrl-C. Not passed on: it ends well."""
        del frame
        self._app.state.draining = True
        if sig == signal.SIGTERM and self._until is None:
            self._until = time.monotonic() + self._drain_seconds
            return
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._until is not None and time.monotonic() >= self._until:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("shutting_down")
        for server in self.servers:
            server.close()
        await asyncio.sleep(_LAST_CALL)
        await super().shutdown(sockets)
