from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_lifespan import LifespanManager
from stand.listening import Listening

from services.student.app import create_app
from services.student.settings import Settings
from understudy.artifacts import ArtifactStore
from understudy.testing import tiny_classifier, tiny_seq2seq


class WatchedStore(ArtifactStore):
    """A real store that counts what is read from it, and can be told to be slow or to fail."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.failure: Exception | None = None

    def folder(self, artifact_id: str) -> Path:
        self.read.append(artifact_id)
        self.open.wait(30)
        if self.failure is not None:
            raise self.failure
        return super().folder(artifact_id)


class Student:
    """A running service, spoken to over its real routes."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def ask(self, *inputs: Any, **fields: Any) -> httpx.Response:
        return await self.http.post("/v1/predictions", json={"inputs": inputs or ("a film",), **fields})

    async def artifact(self, **fields: Any) -> str:
        """Which artifact answers."""
        answer = await self.ask(**fields)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["artifact"])

    async def ready(self) -> httpx.Response:
        return await self.http.get("/readyz")

    async def models(self) -> dict[str, Any]:
        return dict((await self.http.get("/v1/models")).json())

    async def until(self, condition: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(0.01)

    async def until_ready(self) -> None:
        async def answers() -> bool:
            return (await self.ready()).status_code == 200

        await self.until(answers)

    async def until_served(self, artifact: str) -> None:
        async def served() -> bool:
            return await self.artifact() == artifact

        await self.until(served)


@asynccontextmanager
async def _running(store: ArtifactStore, **settings: Any) -> AsyncIterator[Student]:
    chosen = {"artifacts": store.root, "device": "cpu", "refresh_seconds": 0.05, "retry_seconds": 0.2} | settings
    async with LifespanManager(create_app(Settings(**chosen), store)) as manager:
        transport = httpx.ASGITransport(app=manager.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://student", timeout=30) as http:
            yield Student(http)


@pytest.fixture
def running() -> Any:
    """`async with running(store, max_queue=1) as student:` runs the service as it ships."""
    return _running


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(tmp_path / "artifacts")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of four different models, made once."""
    base = tmp_path_factory.mktemp("models")
    return {
        "one": tiny_classifier(base / "one", pooling="gate", seed=1),
        "two": tiny_classifier(base / "two", pooling="gate", seed=2),
        "three": tiny_classifier(base / "three", seed=3),
        "writer": tiny_seq2seq(base / "writer"),
    }


@pytest.fixture
def publish(store: WatchedStore, folders: dict[str, Path]) -> Callable[..., str]:
    """Publish one of the models and point aliases at it."""

    def put(name: str, *aliases: str) -> str:
        artifact = store.publish("model", folders[name]).id
        for alias in aliases:
            store.set_alias(alias, artifact)
        return artifact

    return put


@pytest.fixture
def address(store: WatchedStore, publish: Callable[..., str]) -> Iterator[str]:
    """`host:port` of a student in a thread of its own, with the models `production` and `writer`."""
    publish("one", "production")
    publish("writer", "writer")
    app = create_app(Settings(artifacts=store.root, device="cpu"), store)
    with Listening(app) as listening:
        yield listening.until_ready().address
