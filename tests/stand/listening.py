"""An application behind a real server, in a thread of its own, on a free port of this machine."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Self

import httpx
import uvicorn

__all__ = ["Listening"]


class Listening:
    """Runs until `stop`, or to the end of the `with` block; `address` is its host and port."""

    def __init__(self, app: Any) -> None:
        self._server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        host, port = self._server.servers[0].sockets[0].getsockname()[:2]
        self.port: int = port
        self.address = f"{host}:{port}"
        self.url = f"http://{self.address}"

    def until_ready(self, seconds: float = 60.0) -> Self:
        """Wait until `/readyz` answers 200; it says why where that takes too long."""
        until = time.monotonic() + seconds
        while (answer := httpx.get(f"{self.url}/readyz")).status_code != 200:
            assert time.monotonic() < until, answer.text
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.stop()
