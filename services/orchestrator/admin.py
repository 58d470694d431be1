"""`python -m services.orchestrator.admin keys ...`: make, list and revoke API keys where the database is.

It reads the same settings as the service and prints one JSON object; an error is one too, on stderr, and the exit
status is 1 then. `understudy keys` starts it, and shows what it says to people.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from services.orchestrator.away import is_away, told
from services.orchestrator.database import Database, require_file
from services.orchestrator.keys import KeyStore, Quotas
from services.orchestrator.migrate import prepare
from services.orchestrator.settings import Settings
from understudy.errors import UnderstudyError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    url = Settings().database
    try:
        if chosen.command != "create":  # the first key may be there before the service: one that others reach needs it
            require_file(url)
        with closing(Database(url)) as database:
            print(json.dumps(_answer(database, chosen)))
    except SQLAlchemyError as error:
        if not is_away(error):
            raise
        print(json.dumps(told(error).body()), file=sys.stderr)
        return 1
    except UnderstudyError as error:
        print(json.dumps(error.body()), file=sys.stderr)
        return 1
    return 0


def _answer(database: Database, chosen: argparse.Namespace) -> Mapping[str, Any]:
    prepare(database)
    keys, now = KeyStore(database), time.time()
    if chosen.command == "create":
        quotas = Quotas(chosen.max_active_jobs, chosen.max_jobs_per_day, chosen.max_stored_bytes)
        made, key = keys.create(chosen.name, chosen.scope, chosen.expires_in, quotas)
        return {**made.facts(now), "key": key}
    if chosen.command == "revoke":
        return keys.revoke(chosen.id).facts(now)
    return {"data": [key.facts(now) for key in keys.all()]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.orchestrator.admin")
    commands = parser.add_subparsers(required=True).add_parser("keys").add_subparsers(dest="command", required=True)
    create = commands.add_parser("create")
    create.add_argument("name")
    create.add_argument("--scope", required=True)
    create.add_argument("--expires-in", type=float, help="seconds")
    for quota in ("--max-active-jobs", "--max-jobs-per-day", "--max-stored-bytes"):
        create.add_argument(quota, type=int)
    commands.add_parser("list")
    commands.add_parser("revoke").add_argument("id")
    return parser


if __name__ == "__main__":
    sys.exit(main())
