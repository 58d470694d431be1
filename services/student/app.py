"""The student service as an application: settings in, a typed state while it runs, routes and health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request

from services.student.engine import Models
from services.student.routes import State, router
from services.student.settings import Settings
from understudy.artifacts import ArtifactStore
from understudy.batching import ModelThread
from understudy.errors import Unavailable
from understudy.web import make_app

__all__ = ["create_app"]

DESCRIPTION = """Answers of small models, with the words of each text that the model names as its reasons.

A model is an artifact id or an alias. When an alias moves, the new model is loaded and tried before it answers, and no
request fails in between."""


def create_app(settings: Settings | None = None, store: ArtifactStore | None = None) -> FastAPI:
    """Make the application; nothing is loaded before it starts."""
    chosen = settings or Settings()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        models, thread = Models(chosen, store), ModelThread(chosen.max_queue)
        models.start()
        try:
            yield {"models": models, "thread": thread}
        finally:
            await models.stop()
            await asyncio.to_thread(thread.close)

    app = make_app(
        "Understudy student",
        description=DESCRIPTION,
        lifespan=lifespan,
        ready=_ready,
        max_body=chosen.max_body_bytes,
        cancel=True,
    )
    app.include_router(router)
    return app


async def _ready(request: Request) -> Mapping[str, Any]:
    models: Models = request.state.models
    if not request.state.thread.alive:
        raise Unavailable("the model thread has ended: restart the service")
    engine = models.ready()
    return {"alias": models.settings.alias, "artifact": engine.name, "problems": models.problems}
