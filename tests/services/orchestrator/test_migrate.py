"""Revisions of the database: from nothing, from before they were kept, from a newer version, and by many at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from services.orchestrator import migrate as module
from services.orchestrator.database import Database, metadata
from services.orchestrator.migrate import check, main, migrate, prepare
from understudy.errors import Conflict


@pytest.fixture
def empty(bare_database_url: str) -> Iterator[Database]:
    one = Database(bare_database_url)
    yield one
    one.close()


def test_the_revisions_give_exactly_the_tables_that_the_code_uses(empty: Database) -> None:
    migrate(empty)
    with empty.read() as sql:
        missing = compare_metadata(MigrationContext.configure(sql, opts={"compare_server_default": True}), metadata)
    assert missing == [], "write a revision for this in services/orchestrator/migrations/versions"


def test_migrating_again_changes_nothing_and_many_at_once_do_it_once(empty: Database) -> None:
    with ThreadPoolExecutor(4) as threads:
        heads = set(threads.map(lambda _: migrate(empty), range(4)))
    assert len(heads) == 1
    assert migrate(empty) in heads
    check(empty)


def test_an_installation_keeps_its_name_whoever_asks_first(empty: Database) -> None:
    migrate(empty)
    with ThreadPoolExecutor(4) as threads:
        assert len({empty.installation(), *threads.map(lambda _: empty.installation(), range(4))}) == 1


def test_a_database_from_before_revisions_were_kept_is_taken_over_with_its_rows(empty: Database) -> None:
    before(empty)
    with empty.write() as sql:
        sql.execute(text("INSERT INTO files VALUES (1, 'file-1', 1, 'data.jsonl', 'fine-tune', 3, 'file-abc')"))
    migrate(empty)
    with empty.read() as sql:
        assert sql.scalar(text("SELECT id FROM files")) == "file-1"
    check(empty)


def before(database: Database) -> None:
    """The tables of revision 0001, and nothing that tells of it."""
    with database.write() as sql:
        config = module._config(sql)
        module.command.upgrade(config, "0001")
        sql.execute(text("DROP TABLE alembic_version"))


def test_tables_that_are_not_ours_are_left_alone(empty: Database) -> None:
    with empty.write() as sql:
        sql.execute(text("CREATE TABLE jobs (id INTEGER)"))
    with pytest.raises(Conflict, match="name an empty database"):
        migrate(empty)
    with empty.read() as sql:
        assert inspect(sql).get_table_names() == ["jobs"]


def test_a_database_of_a_newer_version_is_refused_by_every_door(empty: Database) -> None:
    migrate(empty)
    with empty.write() as sql:
        sql.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for door in (migrate, check, prepare):
        with pytest.raises(Conflict, match="revision 9999, which a newer version"):
            door(empty)


def test_a_revision_that_fails_leaves_the_database_as_it_was(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    before(empty)

    def fail(config: Any, _: str) -> None:
        config.attributes["connection"].execute(text("CREATE TABLE half (id INTEGER)"))
        raise ZeroDivisionError

    monkeypatch.setattr(module.command, "upgrade", fail)
    with pytest.raises(ZeroDivisionError):
        migrate(empty)
    with empty.read() as sql:
        assert set(inspect(sql).get_table_names()) == {"files", "jobs", "work_items", "events"}


def test_a_server_is_migrated_by_the_command_only(empty: Database) -> None:
    if empty.dialect == "sqlite":
        prepare(empty)
        return
    with pytest.raises(Conflict, match="run `python -m services"):
        prepare(empty)
    migrate(empty)
    prepare(empty)


def test_the_command_says_what_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path))
    assert main() == 0
    assert "revision" in capsys.readouterr().out
    database = Database(f"sqlite:///{tmp_path / 'understudy.db'}")
    with database.write() as sql:
        sql.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    assert main() == 1
    assert "newer version" in capsys.readouterr().err
