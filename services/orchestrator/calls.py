"""An HTTP transport for calls that must end: one deadline for a whole call, and an end when its caller must stop.

A timeout for each read, which is all that a blocking socket has, never ends a call whose answer comes byte by byte, and
a thread in a read hears of nothing. Here an event loop in a thread of its own does the waiting. Knows no service.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from contextvars import ContextVar

import httpx

from understudy import sockets

__all__ = ["Check", "WholeCall", "terms"]

Check = Callable[[], None]
"""Called before each attempt and while waiting; it may raise, so that a worker that must stop does not stay here."""

CONNECT_SECONDS = 10.0
POLL_SECONDS = 0.1


def _no_check() -> None:
    """Nobody wants to stop."""


_terms: ContextVar[tuple[float, Check]] = ContextVar("terms", default=(120.0, _no_check))


@contextmanager
def terms(seconds: float, check: Check) -> Iterator[None]:
    """What holds for the calls within: how long each may take from its first byte to its last, and who may end it."""
    token = _terms.set((seconds, check))
    try:
        yield
    finally:
        _terms.reset(token)


class WholeCall(httpx.BaseTransport):
    """Raises httpx.ReadTimeout when a call's time is over, and what `check` raises; the connection is closed then."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="calls", daemon=True)
        self._thread.start()
        self._network = httpx.AsyncHTTPTransport(
            trust_env=False, limits=httpx.Limits(max_connections=None), socket_options=sockets.options()
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        seconds, check = _terms.get()
        body = request.read()  # an asynchronous transport sends what is in memory
        whole = httpx.Request(request.method, request.url, headers=request.headers, content=body)
        whole.extensions = {"timeout": {"connect": CONNECT_SECONDS}}
        call = asyncio.run_coroutine_threadsafe(self._send(whole, seconds), self._loop)
        try:
            while True:
                check()
                futures.wait([call], POLL_SECONDS)
                if call.done():
                    return call.result()
        finally:
            call.cancel()

    def close(self) -> None:
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._network.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _send(self, request: httpx.Request, seconds: float) -> httpx.Response:
        try:
            async with asyncio.timeout(seconds):
                answer = await self._network.handle_async_request(request)
                try:
                    body = await answer.aread()
                finally:
                    await answer.aclose()
        except TimeoutError:
            raise httpx.ReadTimeout(f"no whole answer within {seconds:g} s", request=request) from None
        # What encoded the body is undone by now.
        dropped = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in answer.headers.multi_items() if name.lower() not in dropped]
        return httpx.Response(answer.status_code, headers=headers, content=body)
