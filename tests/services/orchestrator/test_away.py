"""Telling a database that is away for a while from a defect, and a full disk from any other error of the system."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from services.orchestrator.away import is_away, no_space, told
from services.orchestrator.database import Database
from understudy.errors import Unavailable


def error_of(database: Database, statement: str) -> SQLAlchemyError:
    with pytest.raises(SQLAlchemyError) as raised, database.write() as sql:
        sql.execute(text(statement))
    return raised.value


@pytest.mark.parametrize(
    "statement", ["SELECT nonsense FROM jobs", "INSERT INTO installation VALUES (1, 'a'), (1, 'b')", "SELEC 1"]
)
def test_a_statement_that_is_wrong_is_a_defect(database_url: str, statement: str) -> None:
    database = Database(database_url)
    assert not is_away(error_of(database, statement))
    database.close()


def test_a_lock_that_was_waited_for_in_vain_is_away(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'jobs.db'}", busy_seconds=0.05)
    error_of(database, "SELEC 1")  # which makes the file
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    error = error_of(database, "SELECT 1")
    other.close()
    database.close()
    assert is_away(error)
    assert "database is locked" in told(error).message


def test_a_server_that_is_not_there_is_away_and_its_address_is_not_told() -> None:
    engine = create_engine("postgresql+psycopg://somebody@/jobs?host=/nowhere/at-all")
    with pytest.raises(SQLAlchemyError) as raised:
        engine.connect()
    assert is_away(raised.value)
    said = told(raised.value)
    assert isinstance(said, Unavailable)
    assert said.retry_after
    assert "nowhere" not in said.message
    assert "somebody" not in said.message


def test_a_disk_without_space_is_told_with_its_place_and_other_errors_are_not_it() -> None:
    full = no_space(OSError(errno.ENOSPC, "No space left on device", "/data/shard.parquet"))
    assert full is not None
    assert "/data/shard.parquet" in full.message
    assert no_space(OSError(errno.EACCES, "Permission denied")) is None
    assert no_space(ValueError("no space")) is None
