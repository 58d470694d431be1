"""The orchestrator's application: OpenAI's Files and Fine-tuning wire format over the job store. Imports no torch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from services.orchestrator.access import Door, check_scopes
from services.orchestrator.broker import create_celery, sender
from services.orchestrator.comparison import Comparisons
from services.orchestrator.context import Context, Send
from services.orchestrator.dispatch import Sweeper
from services.orchestrator.dry import DryRun
from services.orchestrator.follow import Followers
from services.orchestrator.garbage import Janitor
from services.orchestrator.keys import KeyStore
from services.orchestrator.metrics import WorkMetrics
from services.orchestrator.routes import files, jobs, models, versions, views
from services.orchestrator.routes.away import answer_while_away
from services.orchestrator.routes.dashboard import dashboard_paths, serve_dashboard
from services.orchestrator.routes.state import State
from services.orchestrator.settings import Settings
from services.orchestrator.watch import Watchers
from services.orchestrator.worker_metrics import WorkerMetrics
from understudy.errors import Unavailable
from understudy.metrics import Metrics
from understudy.web import make_app

__all__ = ["create_app"]

MULTIPART_OVERHEAD = 64 * 1024  # boundaries, headers and the other fields of an upload


def create_app(settings: Settings | None = None, send: Send | None = None) -> FastAPI:
    """`send` replaces the broker in tests."""
    chosen, metrics = settings or Settings(), Metrics()
    own_work = WorkerMetrics(metrics.registry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        sends = send or sender(create_celery(chosen))
        context = await run_in_threadpool(
            lambda: Context(chosen, sends, metrics=own_work, busy_seconds=chosen.database_patience)
        )
        sweeper, janitor = Sweeper(context), Janitor(chosen, context.database, context.artifacts)
        sweeper.start()
        janitor.start()
        work = WorkMetrics(context.database, context.clock)
        metrics.registry.register(work)
        yield {
            "context": context,
            "keys": KeyStore(context.database, context.clock),
            "sweeper": sweeper,
            "followers": Followers(context, stopping=lambda: bool(app.state.draining)),
            "watchers": Watchers(context, stopping=lambda: bool(app.state.draining)),
            "comparisons": Comparisons(context, chosen),
            "dry_run": DryRun(context, stopping=lambda: bool(app.state.draining)),
        }
        metrics.registry.unregister(work)
        await run_in_threadpool(janitor.stop)
        await run_in_threadpool(sweeper.stop)
        context.close()

    routers = [module.router for module in (files, jobs, models, versions, views)]
    check_scopes(routers)
    app = make_app(
        "Understudy orchestrator",
        description="OpenAI's Files and Fine-tuning wire format for distillation jobs on your own machines.",
        lifespan=lifespan,
        ready=_ready,
        max_body=chosen.max_body_bytes,
        max_body_at={"/v1/files": chosen.max_upload_bytes + MULTIPART_OVERHEAD},
        guard=Door(chosen),
        open_paths=dashboard_paths(),
        metrics=metrics,
    )
    for router in routers:
        app.include_router(router)
    serve_dashboard(app)
    answer_while_away(app)
    return app


async def _ready(request: Request) -> Mapping[str, Any]:
    """Ready means that jobs can be stored. A broker that is away delays them, and loses none."""
    context: Context = request.state.context
    if not request.state.sweeper.alive():
        raise Unavailable("the sweeper has ended: jobs would be stored and never sent to a worker")
    await run_in_threadpool(context.database.ping)
    return {"database": "ok", "sweeper": "ok"}
