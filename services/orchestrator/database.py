"""The tables, and an engine that behaves the same on SQLite and on PostgreSQL. Knows nothing of what the rows mean.

On SQLite a transaction that will write takes the lock as it begins (BEGIN IMMEDIATE): a transaction that reads first
and writes later cannot wait for the lock and would fail with "database is locked" whatever the timeout.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from services.orchestrator.away import is_away, told
from understudy import sockets
from understudy.errors import NotFound

__all__ = [
    "BUSY_SECONDS",
    "Database",
    "api_keys",
    "events",
    "files",
    "idempotency_keys",
    "installation",
    "jobs",
    "made_by_keys",
    "metadata",
    "rationales",
    "require_file",
    "work_items",
]

BUSY_SECONDS = 30.0  # how long a writer on SQLite waits for another

CONNECT_SECONDS = 5
IDLE_TRANSACTION_SECONDS = 60
"""After which a PostgreSQL undoes a transaction whose client says nothing; ours last for moments."""

metadata = MetaData()
# SQLite numbers rows only in an INTEGER primary key; PostgreSQL gets the wide one.
_Sequence = BigInteger().with_variant(Integer, "sqlite")

files = Table(
    "files",
    metadata,
    Column("seq", _Sequence, primary_key=True),  # insertion order: `created_at` has whole seconds only
    Column("id", String(64), nullable=False, unique=True),
    Column("created_at", Integer, nullable=False),
    Column("filename", String(255), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("artifact", String(64), nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", _Sequence, primary_key=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("status", String(32), nullable=False, index=True),
    Column("phase", String(32), nullable=False),
    Column("phase_started_at", Double, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("finished_at", Integer),
    Column("request", JSON, nullable=False),  # what was asked for; never changes
    Column("outcome", JSON, nullable=False),  # what came of it so far
)

_TO_SEND = text("state = 'pending' AND sent_at IS NULL")  # a query must say it with these very words

work_items = Table(
    "work_items",
    metadata,
    Column("seq", _Sequence, primary_key=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("job_id", String(64), ForeignKey("jobs.id"), nullable=False),
    Column("phase", String(32), nullable=False),
    Column("index", Integer, nullable=False),
    Column("queue", String(32), nullable=False),
    Column("payload", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("token", Integer, nullable=False),
    Column("worker", String(255)),
    Column("lease_until", Double),
    Column("not_before", Double, nullable=False),
    Column("sent_at", Double),  # when a message was last sent; NULL: none is under way
    Column("sends", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("result", JSON(none_as_null=True)),
    Column("error", JSON(none_as_null=True)),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    UniqueConstraint("job_id", "phase", "index"),
    # What every sweep asks must not cost more the more items wait or are done.
    Index("work_items_of_phase", "job_id", "phase", "state"),
    Index("work_items_to_send", "queue", "index", "seq", sqlite_where=_TO_SEND, postgresql_where=_TO_SEND),
    Index("work_items_under_way", "queue", "state", "sent_at"),
    Index("work_items_by_time", "state", "not_before"),
)

events = Table(
    "events",
    metadata,
    Column("seq", _Sequence, primary_key=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("job_id", String(64), ForeignKey("jobs.id"), nullable=False, index=True),
    Column("created_at", Integer, nullable=False),
    Column("level", String(8), nullable=False),
    Column("type", String(16), nullable=False),
    Column("message", String, nullable=False),
    Column("data", JSON(none_as_null=True)),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("scope", String(128), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("token", String(64), nullable=False),
    Column("content", String(64), nullable=False),
    Column("taken_at", Double, nullable=False, index=True),
    Column("status", Integer),  # NULL: the work is not done yet
    Column("body", String),
)

# `digest` is the SHA-256 of a key in hexadecimal digits; the key itself is nowhere. A row is never removed.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("hint", String(16), nullable=False),
    Column("name", String(100), nullable=False),
    Column("scope", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("last_used_at", Double),
    Column("max_active_jobs", Integer),
    Column("max_jobs_per_day", Integer),
    Column("max_stored_bytes", BigInteger),
)

made_by_keys = Table(
    "made_by_keys",
    metadata,
    Column("object_id", String(64), primary_key=True),  # of a job or a file
    Column("key_id", String(64), ForeignKey("api_keys.id"), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("made_at", Double, nullable=False),
    Index("made_by_keys_in_order", "key_id", "kind", "made_at"),
)

installation = Table(
    "installation",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),  # always 1: there is one row
    Column("name", String(32), nullable=False),
)

# Millions of rows: nothing but where an answer is. `key` is half a SHA-256, in hexadecimal digits.
rationales = Table(
    "rationales",
    metadata,
    Column("key", String(32), primary_key=True),
    Column("shard", String(64), nullable=False, index=True),
    Column("place", Integer, nullable=False),
    sqlite_with_rowid=False,
)


def require_file(url: str) -> None:
    """Raise NotFound for a SQLite file that is not there: no service has run where it is looked for."""
    found = make_url(url)
    if found.get_backend_name() == "sqlite" and found.database and not Path(found.database).is_file():
        raise NotFound(
            f"there is no database '{found.database}': no service has run there. Name the folder of the stack that is "
            "meant with --home, or set UNDERSTUDY_HOME or UNDERSTUDY_DATABASE_URL",
            param="home",
        )


class Database:
    """`with database.read() as sql:` or `with database.write() as sql:` is one transaction, committed at the end."""

    def __init__(self, url: str, busy_seconds: float = BUSY_SECONDS) -> None:
        """`busy_seconds` is how long a statement waits for another process's lock before it fails."""
        self._busy_seconds = busy_seconds
        self._engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        if self._engine.dialect.name == "sqlite":
            if (path := make_url(url).database) and path != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            event.listen(self._engine, "connect", self._configure_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        else:
            event.listen(self._engine, "do_connect", _connect_postgres)
            event.listen(self._engine, "connect", _configure_postgres)
        self._writer = self._engine.execution_options(writes=True)

    @property
    def dialect(self) -> str:
        return str(self._engine.dialect.name)

    def installation(self) -> str:
        """A name that this database has for good: all who share it are one installation, and nobody else is."""
        name = select(installation.c.name)
        with self.read() as sql:
            if (found := sql.scalar(name)) is not None:
                return str(found)
        with suppress(IntegrityError), self.write() as sql:  # another process may be naming it, too
            sql.execute(insert(installation).values(one=1, name=secrets.token_hex(8)))
        with self.read() as sql:
            return str(sql.scalar(name))

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._engine.connect() as sql:
            yield sql

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self._writer.begin() as sql:
            yield sql

    def ping(self) -> None:
        """Raise where the database does not answer."""
        try:
            with self.read() as sql:
                sql.execute(select(1))
        except SQLAlchemyError as error:
            if is_away(error):
                raise told(error) from error
            raise

    def close(self) -> None:
        self._engine.dispose()

    def _configure_sqlite(self, connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins no transaction of its own: _begin_sqlite does
        connection.execute(f"PRAGMA busy_timeout = {round(self._busy_seconds * 1000)}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # with WAL safe against crashes of ours; see "synchronous"
        connection.execute("PRAGMA foreign_keys = ON")


def _connect_postgres(_: Any, __: Any, ___: Any, parameters: dict[str, Any]) -> None:
    """Notice a server that is gone without a word; what the URL says comes first."""
    for name, value in {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": sockets.IDLE_SECONDS,
        "keepalives_interval": sockets.INTERVAL_SECONDS,
        "keepalives_count": sockets.PROBES,
        "tcp_user_timeout": 1000 * sockets.GONE_SECONDS,
    }.items():
        parameters.setdefault(name, value)


def _configure_postgres(connection: Any, _: Any) -> None:
    """Let the server notice the same of us: it would keep the locks of a host that is gone for two hours."""
    settings = {
        "tcp_keepalives_idle": sockets.IDLE_SECONDS,
        "tcp_keepalives_interval": sockets.INTERVAL_SECONDS,
        "tcp_keepalives_count": sockets.PROBES,
        "tcp_user_timeout": 1000 * sockets.GONE_SECONDS,
        "idle_in_transaction_session_timeout": 1000 * IDLE_TRANSACTION_SECONDS,
    }
    with connection.cursor() as sql:
        for name, value in settings.items():
            sql.execute(f"SET {name} = {value}")
    connection.commit()


def _begin_sqlite(sql: Connection) -> None:
    sql.exec_driver_sql("BEGIN IMMEDIATE" if sql.get_execution_options().get("writes") else "BEGIN")
