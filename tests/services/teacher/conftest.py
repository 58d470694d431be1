from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_lifespan import LifespanManager
from prometheus_client import CollectorRegistry

from services.teacher.app import create_app
from services.teacher.desk import Desk
from services.teacher.engine import Engine
from services.teacher.metrics import TeacherMetrics
from services.teacher.settings import Settings
from understudy.artifacts import ArtifactStore
from understudy.testing import tiny_causal, tiny_classifier, tiny_seq2seq

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
OpenDesk = Callable[..., AbstractAsyncContextManager[Desk]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """A store with three models under the aliases `classifier`, `writer` and `decoder`. Read only."""
    folder = tmp_path_factory.mktemp("teacher")
    store = ArtifactStore(folder / "artifacts")
    store.set_alias("classifier", store.publish("model", tiny_classifier(folder / "classifier")).id)
    store.set_alias("writer", store.publish("model", tiny_seq2seq(folder / "writer")).id)
    store.set_alias("decoder", store.publish("model", tiny_causal(folder / "decoder")).id)
    return store


@pytest.fixture
def settings(published: ArtifactStore) -> Callable[..., Settings]:
    return lambda **options: Settings(**{"artifacts": published.root, "model": "classifier", "device": "cpu"} | options)


@pytest.fixture
def serve(settings: Callable[..., Settings]) -> Serve:
    """`async with serve(max_models=1) as client:` runs the real application in this process."""

    @asynccontextmanager
    async def run(engine: Engine | None = None, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
        app = create_app(settings(**options), engine)
        async with LifespanManager(app) as manager:
            transport = httpx.ASGITransport(app=manager.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://teacher") as client:
                yield client

    return run


@pytest.fixture
def desk(settings: Callable[..., Settings]) -> OpenDesk:
    """`async with desk(max_models=1) as one:` runs the service's inside without HTTP."""

    @asynccontextmanager
    async def run(engine: Engine | None = None, **options: Any) -> AsyncIterator[Desk]:
        one = Desk(engine or Engine(settings(**options)), TeacherMetrics(CollectorRegistry()))
        try:
            yield one
        finally:
            await one.stop()

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_classifier(tmp_path / "model", labels=("no", "yes"))
