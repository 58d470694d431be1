"""`python -m services.orchestrator`: serve until a signal comes, with settings from the environment."""

from __future__ import annotations

import sys

from sqlalchemy.exc import SQLAlchemyError

from services.orchestrator.app import create_app
from services.orchestrator.away import unusable
from services.orchestrator.database import Database
from services.orchestrator.keys import KeyStore
from services.orchestrator.migrate import prepare
from services.orchestrator.settings import PREFIX, Settings
from understudy.browsers import is_loopback
from understudy.errors import UnderstudyError
from understudy.keys import Keys
from understudy.server import refuse_open_door, serve


def main() -> None:
    settings = Settings()
    try:
        if not (settings.database_url and settings.artifacts):
            settings.make_home()
        has_keys = _has_keys(settings)  # asked in any case: it finds a database that is away or not this version's
        guarded = settings.allow_anonymous or has_keys or bool(Keys(settings.keys)) or is_loopback(settings.host)
        make_key = "understudy keys create NAME --scope submit"
        if not settings.database_url and "home" in settings.model_fields_set:
            make_key += f" --home {settings.home}"
        refuse_open_door(settings.host, guarded=guarded, setting=PREFIX, make_key=make_key)
    except SQLAlchemyError as error:
        sys.exit(f"the orchestrator does not start: {unusable(error, settings.database)}")
    except (UnderstudyError, OSError) as error:
        sys.exit(f"the orchestrator does not start: {error}")
    serve(
        "orchestrator",
        create_app(settings),
        settings.host,
        settings.port,
        drain_seconds=settings.drain_seconds,
        allow_anonymous=settings.allow_anonymous,
    )


def _has_keys(settings: Settings) -> bool:
    """Whether a key of the database opens the service now."""
    database = Database(settings.database)
    try:
        prepare(database)
        return KeyStore(database).any_open()
    finally:
        database.close()


if __name__ == "__main__":
    main()
