"""What must stay in the artifact store, and why: for jobs, for aliases, for files and for the cache of rationales.

A job that has not ended, paused ones among them, needs everything that its rows and its items' rows mention; one that
has ended does until its retention is over, and then the published model, the report and the result files alone. Reads
the database and the aliases, and knows nothing of how an artifact is removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, String, cast, select, text

from services.orchestrator.database import files, jobs, rationales, work_items
from services.orchestrator.jobs import ENDED
from understudy.aliases import standing
from understudy.artifacts import Artifact, ArtifactStore, ids_in

__all__ = ["Bounds", "Needs", "day", "keep_cached", "last_used", "needs", "still"]


@dataclass(frozen=True)
class Bounds:
    """How long things are kept that nobody needs any more. Times are in seconds, sizes in bytes."""

    retention: float
    grace: float
    cache_bytes: int
    cache_seconds: float


@dataclass
class Needs:
    """`reasons`: why each artifact stays. `over`: what there is to say of one that a job needed until lately."""

    reasons: dict[str, str] = field(default_factory=dict)
    over: dict[str, str] = field(default_factory=dict)
    known_jobs: set[str] = field(default_factory=set)
    cached: set[str] = field(default_factory=set)

    def add(self, artifact_id: str, reason: str) -> None:
        self.reasons.setdefault(artifact_id, reason)


def still(sql: Connection) -> None:
    """Let no other transaction change what is needed until this one ends. SQLite has one writer at a time anyway."""
    if sql.dialect.name == "postgresql":
        names = ", ".join(table.name for table in (files, jobs, work_items))
        sql.execute(text(f"LOCK TABLE {names} IN SHARE MODE"))


def needs(sql: Connection, store: ArtifactStore, bounds: Bounds, now: float) -> Needs:
    """All that is needed at this moment."""
    found = Needs()
    _by_aliases(found, store, now - bounds.retention)
    _by_jobs(sql, found, bounds, now)
    for row in sql.execute(select(files.c.id, files.c.artifact)):
        found.add(row.artifact, f"file {row.id} holds it")
    found.cached = set(sql.scalars(select(rationales.c.shard).distinct()))
    return found


def keep_cached(
    found: Needs, shards: Sequence[Artifact], used: Mapping[str, float], bounds: Bounds, now: float
) -> None:
    """Need the answers of teachers that were used last, as many as the bounds leave room for."""
    room = bounds.cache_bytes
    ours = [one for one in shards if one.id in found.cached]
    for one in sorted(ours, key=lambda shard: last_used(shard, used), reverse=True):
        room -= one.bytes
        at = last_used(one, used)
        if one.id in found.reasons:
            continue
        if room < 0:
            found.over.setdefault(one.id, f"the rationale cache is full, and it was last used on {day(at)}")
        elif at < now - bounds.cache_seconds:
            found.over.setdefault(one.id, f"answers of a teacher, last used on {day(at)}")
        else:
            found.add(one.id, f"answers of a teacher in the rationale cache, last used on {day(at)}")


def last_used(artifact: Artifact, used: Mapping[str, float]) -> float:
    return max(float(artifact.created_at), used.get(artifact.id, 0.0))


def day(at: float) -> str:
    """A time as people read it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _by_aliases(found: Needs, store: ArtifactStore, since: float) -> None:
    for name in store.moves.names():
        history = store.moves.history(name)
        for current in {store.moves.get(name), history[-1].artifact if history else None} - {None}:
            found.add(str(current), f"alias '{name}' names it")
        for before in standing(history)[-2:-1]:
            found.add(before, f"alias '{name}' can be rolled back to it")
        for move, following in pairwise(history):
            if following.at >= since:
                found.add(move.artifact, f"alias '{name}' named it until {day(following.at)}")


def _by_jobs(sql: Connection, found: Needs, bounds: Bounds, now: float) -> None:
    alive: dict[str, str] = {}
    request, outcome = cast(jobs.c.request, String), cast(jobs.c.outcome, String)
    columns = (jobs.c.id, jobs.c.status, jobs.c.finished_at, request.label("request"), outcome.label("outcome"))
    for row in sql.execute(select(*columns)):
        found.known_jobs.add(row.id)
        _papers(found, row.id, json.loads(row.outcome))
        reason = _reason(row, bounds, now)
        mentioned = ids_in(row.request + row.outcome)
        if reason:
            alive[row.id] = reason
            for one in mentioned:
                found.add(one, reason)
        else:
            _note_over(found, mentioned, row)
    said = (cast(work_items.c.payload, String).label("payload"), cast(work_items.c.result, String).label("result"))
    within = jobs.c.finished_at.is_(None) | jobs.c.status.not_in(ENDED)
    kept = within | (jobs.c.finished_at >= now - bounds.retention)
    query = select(work_items.c.job_id, *said).join(jobs, work_items.c.job_id == jobs.c.id).where(kept)
    for row in sql.execute(query):
        for one in ids_in(row.payload + (row.result or "")):
            found.add(one, alive[row.job_id])


def _papers(found: Needs, job_id: str, outcome: Mapping[str, Any]) -> None:
    """What of a job stays for good: its model, its report, and the files that it made."""
    if model := outcome.get("fine_tuned_model"):
        found.add(model, f"published by job {job_id}")
    if report := (outcome.get("facts") or {}).get("report"):
        found.add(report, f"the report of job {job_id}")


def _reason(row: Any, bounds: Bounds, now: float) -> str | None:
    if row.status not in ENDED or row.finished_at is None:
        return f"job {row.id} is {row.status} and may need it"
    if row.finished_at >= now - bounds.retention:
        until = day(row.finished_at + bounds.retention)
        return f"job {row.id} ended on {day(row.finished_at)}, and `reproduce` finds it until {until}"
    return None


def _note_over(found: Needs, mentioned: set[str], row: Any) -> None:
    said = f"job {row.id} ended on {day(row.finished_at)} and its retention is over: `reproduce` cannot use it any more"
    for one in mentioned:
        found.over.setdefault(one, said)
