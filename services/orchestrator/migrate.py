"""`python -m services.orchestrator.migrate`: bring the database to this version's revision, or say why that cannot be.

A SQLite file is migrated by whoever opens it. A server is migrated by this command, once, before the new version
starts: a process that finds another revision there refuses to work. Several at once wait for each other.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import SQLAlchemyError

from services.orchestrator.away import unusable
from services.orchestrator.database import Database
from services.orchestrator.settings import Settings
from understudy.errors import Conflict, UnderstudyError

__all__ = ["check", "main", "migrate", "prepare"]

COMMAND = "python -m services.orchestrator.migrate"
LOCK = 7291834  # any number: ours alone in this database
# What a home has that was made before revisions were kept; it is 0001 in all but name.
BEFORE = {"files": 7, "jobs": 9, "work_items": 23, "events": 8}


def prepare(database: Database) -> None:
    """Make a database fit for this process: SQLite is migrated, a server must have been. Raises Conflict."""
    if database.dialect == "sqlite":
        migrate(database)
    else:
        check(database)


def migrate(database: Database) -> str:
    """Apply what is missing and return the revision. Raises Conflict for a database that is not ours to change."""
    with database.write() as sql:
        if sql.dialect.name == "postgresql":
            sql.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
        config = _config(sql)
        head = _head(config)
        found = _revision(sql)
        if found == head:
            return head
        _known(config, found)
        if found is None and (tables := set(inspect(sql).get_table_names()) - {"alembic_version"}):
            _adopt(sql, config, tables)
        command.upgrade(config, "head")
    return head


def check(database: Database) -> None:
    """Raises Conflict, which says what to do, unless the database has this version's revision."""
    with database.read() as sql:
        config = _config(sql)
        found, head = _revision(sql), _head(config)
        if found != head:
            _known(config, found)
            has = f"revision {found}" if found else "no tables of ours"
            raise Conflict(f"the database has {has} and this version needs {head}: run `{COMMAND}` once")


def _config(sql: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = sql
    return config


def _head(config: Config) -> str:
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head is not None
    return head


def _revision(sql: Connection) -> str | None:
    return MigrationContext.configure(sql).get_current_revision()


def _known(config: Config, found: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise Conflict(
            f"the database has revision {found}, which a newer version of Understudy made: "
            "install that version, or name another database"
        )


def _adopt(sql: Connection, config: Config, tables: set[str]) -> None:
    """Take over a database from before revisions were kept, where it is exactly what it was then."""
    columns = {name: len(inspect(sql).get_columns(name)) for name in tables}
    if columns != BEFORE:
        raise Conflict(
            f"the database has tables without a revision ({', '.join(sorted(tables))}), and they are not those that "
            "this version can take over: name an empty database, or another home"
        )
    command.stamp(config, "0001")


def main(arguments: Sequence[str] = ()) -> int:
    """With `--check` nothing is changed, and the status is 1 where the database is not at this version's revision."""
    parser = argparse.ArgumentParser(prog=COMMAND)
    parser.add_argument("--check", action="store_true", help="only say whether it is at this version's revision")
    only_check = parser.parse_args(arguments).check
    url = Settings().database
    database = Database(url)
    try:
        if only_check:
            check(database)
            print("it is at the revision of this version")
        else:
            print(f"the database has revision {migrate(database)}")
    except (SQLAlchemyError, UnderstudyError) as error:
        told = unusable(error, url) if isinstance(error, SQLAlchemyError) else error
        print(told.message, file=sys.stderr)
        return 1
    finally:
        database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
