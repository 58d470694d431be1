"""The orchestrator's API on a real port of this machine, and a client without any comfort."""

from __future__ import annotations

from typing import Any

import httpx

from services.orchestrator.app import create_app
from services.orchestrator.context import Send
from services.orchestrator.settings import Settings
from stand.bench import FEW
from stand.listening import Listening

__all__ = ["Server"]

DISTIL = {"type": "distillation", "distillation": {"teacher": {"model": "teacher"}, **FEW}}


class Server:
    """`send` takes what the sweeper sends; nobody works on it here."""

    def __init__(self, settings: Settings, send: Send = lambda *_: None) -> None:
        self.app = create_app(settings, send)
        self._listening = Listening(self.app)
        self.url = self._listening.url
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=60)

    def stop(self) -> None:
        """End as on SIGTERM: streams first."""
        self.http.close()
        self.app.state.draining = True
        self._listening.stop()

    def upload(self, content: str, name: str = "rows.jsonl", **headers: str) -> httpx.Response:
        files = {"file": (name, content.encode())}
        return self.http.post("/v1/files", files=files, data={"purpose": "fine-tune"}, headers=headers)

    def create(self, *, key: str | None = None, **body: Any) -> httpx.Response:
        given = {"model": "scratch:bert-1x16", "method": DISTIL, **body}
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.http.post("/v1/fine_tuning/jobs", json=given, headers=headers)
