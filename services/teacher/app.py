"""The teacher service as an application: settings in, a typed state while it runs, routes and health."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request

from services.teacher.desk import Desk
from services.teacher.engine import Engine
from services.teacher.metrics import TeacherMetrics
from services.teacher.readiness import Readiness
from services.teacher.routes import kserve, native, open_inference, tensors
from services.teacher.routes.state import State
from services.teacher.settings import Settings
from understudy.metrics import Metrics
from understudy.string_errors import StringErrors
from understudy.web import make_app

__all__ = ["create_app"]

DESCRIPTION = """Explains the answers of a large model: which words of each text decided them.

A model is an artifact id or alias, a local folder, or a Hugging Face name; it is loaded when it is first named."""


def create_app(settings: Settings | None = None, engine: Engine | None = None) -> FastAPI:
    """Make the application; nothing is loaded before it starts."""
    chosen = settings or Settings()
    metrics = Metrics()
    counts = TeacherMetrics(metrics.registry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        desk = Desk(engine or Engine(chosen), counts)
        readiness = Readiness(desk, lambda: bool(app.state.draining))
        try:
            yield {"desk": desk, "readiness": readiness}
        finally:
            await readiness.stop()
            await desk.stop()

    app = make_app(
        "Understudy teacher",
        description=DESCRIPTION,
        lifespan=lifespan,
        ready=_ready,
        max_body=chosen.max_body_bytes,
        api_keys=chosen.keys,
        open_paths=open_inference.HEALTH,
        acting=("/v1/models/", "/v2/models/"),  # asking for a model's facts loads it, and may put another one out
        metrics=metrics,
        cancel=True,
    )
    for protocol in (native, kserve, open_inference):
        app.include_router(protocol.router)
    app.add_middleware(StringErrors, said=tensors.said_of_tensors)
    return app


async def _ready(request: Request) -> Mapping[str, Any]:
    readiness: Readiness = request.state.readiness
    return readiness.details()
