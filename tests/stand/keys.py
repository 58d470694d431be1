"""The keys of an orchestrator's database, as the command beside the service makes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from services.orchestrator.database import Database
from services.orchestrator.keys import KeyStore
from services.orchestrator.migrate import prepare
from services.orchestrator.settings import Settings

__all__ = ["key_store"]


@contextmanager
def key_store(settings: Settings) -> Iterator[KeyStore]:
    database = Database(settings.database)
    prepare(database)
    yield KeyStore(database)
    database.close()
