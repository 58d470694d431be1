"""A store on a real file, a teacher without a model, and jobs that are worked on in this process."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from stand.bench import Bench, Clock, quick_settings
from stand.bench import rows as make_rows
from stand.postgres import find_binaries, private_server

from services.orchestrator.child import warm
from services.orchestrator.database import Database
from services.orchestrator.migrate import migrate
from services.orchestrator.settings import Settings
from understudy.testing import FakeTeacher

POSTGRES = os.environ.get("UNDERSTUDY_TEST_POSTGRES")
"""A server to use instead of a private one, as a URL without a database: `postgresql+psycopg://user@127.0.0.1:5432`."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server as a URL with `{}` for the name of a database; skips where there is none."""
    if POSTGRES:
        yield f"{POSTGRES}/{{}}"
    elif find_binaries() is None:
        pytest.skip("no PostgreSQL on this machine: apt-get install postgresql, or set UNDERSTUDY_TEST_POSTGRES")
    else:
        with private_server() as url:
            yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database of each kind, with nothing in it."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'jobs.db'}"
        return
    server = request.getfixturevalue("postgres")
    name = f"understudy_{uuid.uuid4().hex[:12]}"
    admin = create_engine(server.format("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as sql:
        sql.execute(text(f"CREATE DATABASE {name}"))
    yield server.format(name)
    with admin.connect() as sql:
        sql.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def database_url(bare_database_url: str) -> str:
    """A fresh database of each kind, at this version's revision."""
    database = Database(bare_database_url)
    migrate(database)
    database.close()
    return bare_database_url


@pytest.fixture(scope="session")
def fork_server() -> None:
    """The server that children come from, with torch imported once: it must be warmed before the first child."""
    warm()


@pytest.fixture(scope="session")
def make_settings() -> Callable[[Path], Settings]:
    return quick_settings


@pytest.fixture
def settings(tmp_path: Path, make_settings: Callable[[Path], Settings]) -> Settings:
    return make_settings(tmp_path)


@pytest.fixture
def teacher() -> FakeTeacher:
    return FakeTeacher()


@pytest.fixture
def bench(settings: Settings, teacher: FakeTeacher) -> Iterator[Bench]:
    one = Bench(settings, teacher)
    yield one
    one.context.close()


@pytest.fixture(scope="session")
def make_bench() -> type[Bench]:
    return Bench


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def rows() -> Callable[..., str]:
    return make_rows
