"""Answering at an address until a signal comes, and ending without losing a request. Knows no route.

On SIGTERM the service says that it is not ready, so that nothing new is sent to it, and still answers what comes for a
while; then it stops listening and ends what it has accepted.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import time
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from understudy.browsers import is_loopback
from understudy.errors import InvalidRequest
from understudy.logs import configure

__all__ = ["refuse_open_door", "serve"]

log = structlog.get_logger()

_LAST_CALL = 0.3  # seconds in which what has connected already may still send its request


def serve(
    service: str, app: FastAPI, host: str, port: int, *, drain_seconds: float = 0.0, allow_anonymous: bool = False
) -> None:
    """Answer requests until a signal comes, with the logs of all libraries in our one shape.

    After SIGTERM `drain_seconds` more pass in which every request is answered and every connection then closed. Where
    `host` is this machine's own and no key is needed, pages from elsewhere are refused (see `browsers`), unless
    `allow_anonymous`: somebody has opened it on purpose.
    """
    configure(service)
    app.state.this_machine_only = is_loopback(host) and not allow_anonymous
    # The libraries' half a million objects never go away: walking them at each full collection would stop requests
    # for a third of a second.
    gc.collect()
    gc.freeze()
    _Server(uvicorn.Config(app, host=host, port=port, log_config=None), app, drain_seconds).run()


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
