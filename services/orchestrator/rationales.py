"""What teachers have said before, by everything that decided it: no teacher is asked the same question twice.

The answers stay where a job has put them, in its shards; the table only says in which row of which shard. An entry is a
hint: a row that is not there, or is not about the example that was asked about, is asked again. Knows no phase.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from services.orchestrator.database import Database, rationales
from understudy.artifacts import ArtifactStore
from understudy.data.parquet import AnnotatedExample, read_annotated
from understudy.errors import ArtifactCorrupt, ArtifactNotFound
from understudy.schemas import (
    Attribution,
    AttributionExample,
    AttributionRequest,
    Example,
    ModelInfo,
    PredictionRequest,
)

__all__ = ["Rationales", "key_of", "keys_of"]

log = structlog.get_logger()

USED_SECONDS = 3600.0  # how exactly it is known when a shard was used last
AT_ONCE = 500  # keys of one query: SQLite takes a bounded number of values


def keys_of(request: AttributionRequest, teacher: ModelInfo) -> list[str]:
    """The key of each example of a request: all that the answer depends on, the code that makes it among it.

    Not the example's name, and not the teacher's: its fingerprint is what it is.
    """
    common = _text([request.model_dump(mode="json", exclude={"model", "examples"}), *_identity(teacher)])
    rows = (_text(row.model_dump(mode="json", exclude={"id"})) for row in request.examples)
    return [_digest(f"[{common}, {row}]") for row in rows]


def key_of(request: PredictionRequest, teacher: ModelInfo) -> str:
    """The key of all answers to one request for predictions, names of its inputs included."""
    return _digest(_text([request.model_dump(mode="json", exclude={"model"}), *_identity(teacher)]))


def _identity(teacher: ModelInfo) -> list[str]:
    return [teacher.fingerprint, teacher.precision, _code()]


@lru_cache(maxsize=1)  # read from a file, and parsed, each time
def _code() -> str:
    return version("understudy")


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Rationales:
    def __init__(self, database: Database, artifacts: ArtifactStore) -> None:
        self._database = database
        self._artifacts = artifacts
        self._noted: dict[str, float] = {}

    def find(self, keys: Sequence[str], examples: Sequence[AttributionExample]) -> list[Attribution | None]:
        """What is known of each example, as if it had been asked now."""
        places = self._places(keys)
        found: list[Attribution | None] = []
        for key, example in zip(keys, examples, strict=True):
            row = self._row(*places[key]) if key in places else None
            same = row is not None and _same(row.example, example)
            found.append(row.attribution.model_copy(update={"id": example.id}) if row and same else None)
        return found

    def folder(self, key: str) -> Path | None:
        """The whole artifact behind a key, where it is there and undamaged."""
        for shard, _ in self._places([key]).values():
            try:
                self._artifacts.use(shard)  # it must not go while its files are read
                return self._artifacts.folder(shard)
            except (ArtifactCorrupt, ArtifactNotFound) as error:
                log.warning("rationales_lost", shard=shard, error=error.message)
        return None

    def keep(self, keys: Sequence[str], shard: str) -> None:
        """Note that a shard's rows, in order, have these keys."""
        values = [{"key": key, "shard": shard, "place": place} for place, key in enumerate(keys)]
        with self._database.write() as sql:
            kind = postgresql.insert if sql.dialect.name == "postgresql" else sqlite.insert
            fresh = kind(rationales)
            # The newest entry is the one that was just seen to be whole.
            newest = {"shard": fresh.excluded.shard, "place": fresh.excluded.place}
            sql.execute(fresh.on_conflict_do_update(index_elements=["key"], set_=newest), values)

    def _places(self, keys: Sequence[str]) -> Mapping[str, tuple[str, int]]:
        with self._database.read() as sql:
            return {
                row.key: (row.shard, row.place)
                for start in range(0, len(keys), AT_ONCE)
                for row in sql.execute(select(rationales).where(rationales.c.key.in_(keys[start : start + AT_ONCE])))
            }

    def _note_use(self, shard: str) -> None:
        """Let a shard count among those that were used last: the others are the first to go (see `garbage`)."""
        now = time.monotonic()
        if now - self._noted.get(shard, -USED_SECONDS) >= USED_SECONDS:
            self._artifacts.use(shard)
            self._noted[shard] = now

    def _row(self, shard: str, place: int) -> AnnotatedExample | None:
        """A row of a shard; None where it is gone or damaged."""
        self._note_use(shard)
        try:
            return _read(self._artifacts.folder(shard) / "shard.parquet")[place]
        except (ArtifactCorrupt, ArtifactNotFound, IndexError) as error:
            log.warning("rationales_lost", shard=shard, place=place, error=str(error))
            return None


@lru_cache(maxsize=8)  # neighbours of a job's shard are in the same few shards of another's
def _read(path: Path) -> Sequence[AnnotatedExample]:
    return read_annotated(path)


def _same(one: Example, asked: AttributionExample) -> bool:
    """Whether a row of a shard is about that question; one without an output may have any answer."""
    answered = asked.output is None or asked.output == one.output
    return answered and (one.input, one.choices) == (asked.input, asked.choices)
