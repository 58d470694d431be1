"""Databases that restart, are locked or are full, under the API and under workers at once: 503 there, patience here."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool
from stand.postgres import Postgres, find_binaries
from stand.processes import Stand, wait
from stand.server import Server

from services.orchestrator.database import Database
from services.orchestrator.migrate import migrate
from services.orchestrator.settings import Settings

pytestmark = pytest.mark.e2e

PREFLIGHT = 4  # requests: 16 examples, 4 at a time


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if find_binaries() is None:
        pytest.skip("no PostgreSQL on this machine: apt-get install postgresql")
    server = Postgres()
    server.start()
    yield server
    server.close()


@pytest.fixture
def on_postgres(postgres: Postgres, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stand]:
    """A stand of its own whose truth is in PostgreSQL."""
    name = f"stand_{request.node.name.partition('[')[2].strip(']').lower()}_{os.getpid()}"
    url = postgres.create(name)
    database = Database(url)
    migrate(database)
    database.close()
    one = Stand(tmp_path, database_url=url)
    yield one
    one.close()


@contextmanager
def api_of(stand: Stand, port: int) -> Iterator[httpx.Client]:
    """The API of a stand as a process of its own, once it is ready."""
    environment = stand.environment | {"UNDERSTUDY_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-m", "services.orchestrator"], env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            wait(lambda: _answers(client))
            yield client
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "how", [signal.SIGINT, pytest.param(signal.SIGQUIT, marks=pytest.mark.slow)], ids=["restart", "crash"]
)
def test_a_restart_of_postgresql_in_mid_shard_is_503_for_a_while_and_costs_no_row(
    on_postgres: Stand, postgres: Postgres, rows: str, free_port: int, how: signal.Signals
) -> None:
    stand = on_postgres
    with api_of(stand, free_port) as client:
        stand.teacher.hold(after=PREFLIGHT + 1)
        worker = stand.annotator()
        job = stand.submit(rows)
        wait(lambda: stand.teacher.waiting)
        postgres.stop(how)
        try:
            stand.teacher.release()
            refused(client.get(f"/v1/fine_tuning/jobs/{job.id}"), "the database cannot take this now")
            assert client.get("/readyz").status_code == 503
            assert client.get("/livez").status_code == 200
        finally:
            postgres.start()
        wait(lambda: _answers(client))
        assert client.get(f"/v1/fine_tuning/jobs/{job.id}").json()["status"] in ("queued", "running")
    stand.check_annotated(job, rows)
    assert worker.poll() is None  # it waited
    assert stand.get(job).error is None


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        broker_url="redis+socket:///nowhere/redis.sock",
        database_patience=0.2,
        sweep_seconds=0.1,
    )


@pytest.fixture
def server(settings: Settings) -> Iterator[Server]:
    one = Server(settings)
    yield one
    one.stop()


def refused(answer: httpx.Response, why: str) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    error = answer.json()["error"]
    assert error["code"] == "unavailable"
    assert why in error["message"]


def test_a_locked_database_is_503_for_writers_and_nothing_to_readers(
    server: Server, settings: Settings, rows: str
) -> None:
    file = server.upload(rows).json()["id"]
    other = sqlite3.connect(settings.home / "understudy.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for write in (
        lambda: server.create(training_file=file),
        lambda: server.create(training_file=file, key="again"),
        lambda: server.upload(rows),
    ):
        refused(write(), "database is locked")
    assert server.http.get("/v1/fine_tuning/jobs").json()["data"] == []
    assert server.http.get("/livez").status_code == 200
    other.execute("ROLLBACK")
    other.close()
    assert server.create(training_file=file, key="again").status_code == 200
    assert len(server.http.get("/v1/fine_tuning/jobs").json()["data"]) == 1


def test_a_full_database_is_503_that_says_so_and_a_later_try_makes_one_job(server: Server, rows: str) -> None:
    asked = {"training_file": server.upload(rows).json()["id"], "metadata": {f"{n}": "x" * 512 for n in range(16)}}
    with full():
        refused(server.create(**asked, key="one"), "full")
        assert server.http.get("/v1/files").json()["data"]
    answers = [wait(lambda: (got := server.create(**asked, key="one")).status_code == 200 and got) for _ in range(2)]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(server.http.get("/v1/fine_tuning/jobs").json()["data"]) == 1


@contextmanager
def full() -> Iterator[None]:
    """Every SQLite database of this process has as many pages as it may have."""

    def bound(pages: int) -> None:
        def on_checkout(connection: Any, *_: Any) -> None:
            connection.execute(f"PRAGMA max_page_count = {pages}")

        for other in listening:
            event.remove(Pool, "checkout", other)
        listening[:] = [on_checkout]
        event.listen(Pool, "checkout", on_checkout)

    listening: list[Any] = []
    bound(1)  # which means: no more than there are
    try:
        yield
    finally:
        bound(2**30)
