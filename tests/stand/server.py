"""The orchestrator's API on a real port of this machine, and a client without any comfort."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx
import uvicorn

from services.orchestrator.app import create_app
from services.orchestrator.context import Send
from services.orchestrator.settings import Settings
from stand.bench import FEW

__all__ = ["Server"]

DISTIL = {"type": "distillation", "distillation": {"teacher": {"model": "teacher"}, **FEW}}


class Server:
    """`send` takes what the sweeper sends; nobody works on it here."""

    def __init__(self, settings: Settings, send: Send = lambda *_: None) -> None:
        self.app = create_app(settings, send)
        self._server = uvicorn.Server(uvicorn.Config(self.app, host="127.0.0.1", port=0, log_config=None))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=60)

    def stop(self) -> None:
        """End as on SIGTERM: streams first."""
        self.http.close()
        self.app.state.draining = True
        self._server.should_exit = True
        self._thread.join()

    def upload(self, content: str, name: str = "rows.jsonl", **headers: str) -> httpx.Response:
        files = {"file": (name, content.encode())}
        return self.http.post("/v1/files", files=files, data={"purpose": "fine-tune"}, headers=headers)

    def create(self, *, key: str | None = None, **body: Any) -> httpx.Response:
        given = {"model": "scratch:bert-1x16", "method": DISTIL, **body}
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.http.post("/v1/fine_tuning/jobs", json=given, headers=headers)
