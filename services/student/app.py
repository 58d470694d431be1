"""The student service as an application: settings in, a typed state while it runs, routes and health."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request

from services.student.desk import Desk
from services.student.metrics import StudentMetrics
from services.student.models import Models
from services.student.routes import kserve, native, open_inference, openai, tensors
from services.student.routes.state import State
from services.student.settings import Settings
from understudy.artifacts import ArtifactStore
from understudy.metrics import Metrics
from understudy.string_errors import StringErrors
from understudy.web import make_app

__all__ = ["create_app"]

DESCRIPTION = """Answers of small models, with the words of each text that the model names as its reasons.

A model is an artifact id or an alias. When an alias moves, the new model is loaded and tried before it answers, and no
request fails in between."""


def create_app(settings: Settings | None = None, store: ArtifactStore | None = None) -> FastAPI:
    """Make the application; nothing is loaded before it starts."""
    chosen = settings or Settings()
    metrics = Metrics()
    counts = StudentMetrics(metrics.registry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        desk = Desk(Models(chosen, store), counts)
        desk.models.start()
        try:
            yield {"desk": desk}
        finally:
            await desk.stop()

    app = make_app(
        "Understudy student",
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
    # KServe's first: where an address is right and its method wrong, the first that fits names the methods there are.
    for protocol in (kserve, native, openai, open_inference):
        app.include_router(protocol.router)
    app.add_middleware(StringErrors, said=tensors.said_of_tensors)
    return app


async def _ready(request: Request) -> Mapping[str, Any]:
    desk: Desk = request.state.desk
    model = desk.ready()
    return {"alias": desk.settings.alias, "artifact": model.artifact, "problems": desk.models.problems}
