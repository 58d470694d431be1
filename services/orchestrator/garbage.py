"""Garbage collection: what no job, alias or file needs any more leaves the artifact store, and nothing else does.

    python -m services.orchestrator.garbage [--dry-run] [--json] [--now] [--adopt]

Mark and sweep in two rounds. A round marks, with the time, what is needed by nobody (see `needs`). What has been marked
for the grace period without a break is looked at again in a transaction, in which nobody can submit a job or add a
file, and is set aside there; then once more, because aliases move and content is published again without a database;
and only then removed for good. What was used within the grace period is never marked: an upload, or a worker that has
published and not yet said so. Cut off anywhere, a round leaves whole artifacts or none, and the next one ends its work.

A store belongs to one installation, which the first round writes down: another database knows none of its jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import structlog
from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import SQLAlchemyError

from services.orchestrator.away import unusable
from services.orchestrator.database import Database, idempotency_keys, rationales, require_file, work_items
from services.orchestrator.idempotency import KEPT_SECONDS
from services.orchestrator.migrate import prepare
from services.orchestrator.needs import Bounds, Needs, day, keep_cached, last_used, needs, still
from services.orchestrator.settings import Settings
from understudy.artifacts import Artifact, ArtifactStore, Inventory, Stray
from understudy.errors import Conflict, UnderstudyError
from understudy.logs import configure

__all__ = ["Collector", "Fate", "Janitor", "Round", "bounds_of", "main"]

log = structlog.get_logger()

NOTE = "gc"
"""The name under which a store keeps the marks, and whose it is."""
LOOKS = 600.0  # seconds between two looks whether a round is due
AT_ONCE = 100
"""Artifacts of one transaction: it holds the database's one writer, and setting one aside is a rename."""
MADE_BY_JOBS = ("model", "report", "shard")
"""Kinds that only jobs publish, with their names; one without such a name was brought here by somebody."""

What = Literal["kept", "marked", "removed"]


@dataclass(frozen=True)
class Fate:
    """What becomes of something in the store or beside it, and why; `bytes` is what it takes."""

    name: str
    kind: str
    bytes: int
    what: What
    reason: str


@dataclass
class Round:
    """What a round found and did, or would have done."""

    dry_run: bool
    fates: list[Fate] = field(default_factory=list)
    expired_keys: int = 0

    def of(self, what: What) -> list[Fate]:
        return [one for one in self.fates if one.what == what]

    def as_json(self) -> dict[str, Any]:
        sizes = {what: sum(one.bytes for one in self.of(what)) for what in ("kept", "marked", "removed")}
        return {
            "dry_run": self.dry_run,
            "bytes": sizes,
            "expired_keys": self.expired_keys,
            "fates": [asdict(one) for one in self.fates],
        }


class Janitor:
    """Runs rounds in a thread of its own, as often as the settings say, whichever process ran the last."""

    def __init__(self, settings: Settings, database: Database, store: ArtifactStore) -> None:
        self._collector = Collector(database, store, bounds_of(settings), settings.work)
        self._every = settings.gc_every_hours * 3600.0 if settings.gc else None
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        if self._every is not None:
            self._thread.start()

    def stop(self) -> None:
        self._collector.stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        assert self._every is not None
        while not self._collector.stopping.wait(min(self._every, LOOKS)):
            try:
                if self._collector.due(self._every):
                    result = self._collector.collect().as_json()
                    log.info("garbage_collected", bytes=result["bytes"], expired_keys=result["expired_keys"])
            except Conflict as error:
                log.warning("garbage_not_collected", error=error.message)
            except Exception:  # the next round finds all as it was
                log.exception("garbage_not_collected")


class Collector:
    """One store and its database. `work` is the folder of what this machine's workers have unfinished, if any."""

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        bounds: Bounds,
        work: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._store = store
        self._bounds = bounds
        self._work = work
        self._clock = clock
        self.stopping = threading.Event()
        """A round that is at work ends early."""

    def due(self, every: float) -> bool:
        """Whether the last round, of whichever process, was so long ago."""
        noted = self._store.noted(NOTE)
        return noted is None or not 0 <= self._clock() - noted["ran_at"] < every

    def collect(self, *, dry_run: bool = False, at_once: bool = False, adopt: bool = False) -> Round:
        """One round. `at_once` does not wait until a mark is as old as the grace period.

        Raises Conflict for a store of another installation, unless `adopt`.
        """
        now = self._clock()
        held = self._store.inventory()
        with self._database.read() as sql:
            found, used = self._needed(sql, held.artifacts, now)
        keep_cached(found, [one for one in held.artifacts if one.kind == "shard"], used, self._bounds, now)
        marks = self._marks(held, found, adopt=adopt, dry_run=dry_run, now=now)
        if not dry_run:
            self._end_removals(found)
        result = Round(dry_run, [_kept(one, found) for one in held.artifacts if one.id in found.reasons])
        result.fates += [_unreadable(name) for name in held.unreadable]
        ripe = self._split(held, found, marks, result, at_once=at_once, now=now)
        for some in _batches(ripe, AT_ONCE):
            if self.stopping.is_set():
                break
            result.fates += self._remove(some, found, now, dry_run=dry_run)
        result.fates += [fate for one in held.strays if (fate := self._sweep_up(one, now, dry_run=dry_run))]
        result.fates += list(self._tidy_work(now, dry_run=dry_run))
        result.expired_keys = self._expired_keys(now, dry_run=dry_run)
        return result

    def _needed(self, sql: Connection, held: Sequence[Artifact], now: float) -> tuple[Needs, Mapping[str, float]]:
        """With what was used just now and what no job has made; and when each artifact was used."""
        found, used = needs(sql, self._store, self._bounds, now), self._store.used_at(one.id for one in held)
        for one in held:
            at = last_used(one, used)
            if at > now - self._bounds.grace:
                found.add(one.id, f"somebody published or used it on {day(at)}: that may still be at work")
            elif one.meta.get("role") == "published":
                found.add(one.id, "a published model, which only its users delete")
            elif one.kind in MADE_BY_JOBS and "job_id" not in one.meta:
                found.add(one.id, "no job has made it")
        return found, used

    def _marks(self, held: Inventory, found: Needs, *, adopt: bool, dry_run: bool, now: float) -> dict[str, float]:
        """Since when each artifact is needed by nobody, as far as rounds have seen."""
        installation = self._database.installation()
        noted = self._store.noted(NOTE)
        if noted is None or adopt:
            self._check_known(held, found, adopt)
        elif noted["installation"] != installation:
            raise Conflict(
                f"the artifacts in {self._store.url} belong to another installation ({noted['installation']}), whose "
                "jobs this database does not know: name its database, or take the store over with --adopt"
            )
        before = noted["marks"] if noted else {}
        marks = {one.id: float(before.get(one.id, now)) for one in held.artifacts if one.id not in found.reasons}
        if not dry_run:
            self._store.note(NOTE, {"installation": installation, "ran_at": now, "marks": marks})
        return marks

    def _check_known(self, held: Inventory, found: Needs, adopt: bool) -> None:
        made = {str(one.meta["job_id"]) for one in held.artifacts if "job_id" in one.meta}
        if (unknown := made - found.known_jobs) and not adopt:
            raise Conflict(
                f"{len(unknown)} jobs whose artifacts are in {self._store.url} are not in this database (as "
                f"{min(unknown)}): name the database that they are in, or take the store over with --adopt"
            )

    def _split(
        self, held: Inventory, found: Needs, marks: dict[str, float], result: Round, *, at_once: bool, now: float
    ) -> list[Artifact]:
        """What may go now; the rest of what is marked is told in `result`."""
        ripe = []
        for one in held.artifacts:
            if one.id in found.reasons:
                continue
            goes = marks[one.id] + self._bounds.grace
            if at_once or goes <= now:
                ripe.append(one)
            else:
                reason = f"{_why(one, found)}; goes after {day(goes)}, or now with --now"
                result.fates.append(Fate(one.id, one.kind, one.bytes, "marked", reason))
        return ripe

    def _remove(self, ripe: Sequence[Artifact], found: Needs, now: float, *, dry_run: bool) -> Iterator[Fate]:
        """Look again, and remove what is still needed by nobody."""
        if dry_run:
            yield from (Fate(one.id, one.kind, one.bytes, "removed", _why(one, found)) for one in ripe)
            return
        with self._store.removals.alone():
            with self._database.write() as sql:
                still(sql)
                again, _ = self._needed(sql, ripe, now)
                aside = {
                    one.id for one in ripe if one.id not in again.reasons and self._store.removals.set_aside(one.id)
                }
            for one in ripe:
                yield self._end(one, found, now) if one.id in aside else _kept(one, again)

    def _end(self, one: Artifact, found: Needs, now: float) -> Fate:
        """Remove for good what is set aside, unless somebody has come to rely on it without the database."""
        if reason := self._relied_on(one.id, now):
            self._store.removals.put_back(one.id)
            return Fate(one.id, one.kind, one.bytes, "kept", reason)
        self._store.removals.purge(one.id)
        with self._database.write() as sql:
            sql.execute(delete(rationales).where(rationales.c.shard == one.id))
        return Fate(one.id, one.kind, one.bytes, "removed", _why(one, found))

    def _relied_on(self, artifact_id: str, now: float) -> str | None:
        """Who has come to rely on an artifact before it was set aside, without the database."""
        used = self._store.used_at([artifact_id]).get(artifact_id, 0.0)
        return "somebody began to use it in this moment" if used > now - self._bounds.grace else None

    def _end_removals(self, found: Needs) -> None:
        """End what a round that was cut off had begun."""
        with self._store.removals.alone():
            for artifact_id in self._store.removals.cut_off():
                needed = artifact_id in found.reasons or self._relied_on(artifact_id, self._clock())
                if needed and self._store.removals.is_whole(artifact_id):
                    self._store.removals.put_back(artifact_id)
                else:
                    self._store.removals.purge(artifact_id)

    def _sweep_up(self, stray: Stray, now: float, *, dry_run: bool) -> Fate | None:
        if stray.modified > now - self._bounds.grace:
            return None
        if not dry_run:
            self._store.sweep_up(stray)
        reason = f"a part that nobody completed, last written on {day(stray.modified)}"
        return Fate(stray.path, "part", stray.bytes, "removed", reason)

    def _tidy_work(self, now: float, *, dry_run: bool) -> Iterator[Fate]:
        """Folders of items that this database does not know; those that it knows are tidied by every sweep."""
        folders = [path for path in self._work.iterdir() if path.is_dir()] if self._work and self._work.is_dir() else []
        with self._database.read() as sql:
            known = set(sql.scalars(select(work_items.c.id))) if folders else set()
        for path in folders:
            files: list[os.stat_result] = []
            with suppress(FileNotFoundError):  # somebody else removes it
                files = [one.stat() for one in [path, *path.rglob("*")]]
            newest = max((one.st_mtime for one in files), default=now)
            if path.name in known or newest > now - self._bounds.grace:
                continue
            if not dry_run:
                shutil.rmtree(path, ignore_errors=True)
            size = sum(one.st_size for one in files)
            yield Fate(str(path), "work folder", size, "removed", "of an item that no database knows")

    def _expired_keys(self, now: float, *, dry_run: bool) -> int:
        expired = idempotency_keys.c.taken_at < now - KEPT_SECONDS
        if dry_run:
            with self._database.read() as sql:
                return len(sql.execute(select(idempotency_keys.c.key).where(expired)).all())
        with self._database.write() as sql:
            return int(sql.execute(delete(idempotency_keys).where(expired)).rowcount)


def bounds_of(settings: Settings) -> Bounds:
    day = 24 * 3600.0
    return Bounds(
        retention=settings.gc_retention_days * day,
        grace=settings.gc_grace_hours * 3600.0,
        cache_bytes=settings.rationale_cache_bytes,
        cache_seconds=settings.rationale_cache_days * day,
    )


def _kept(artifact: Artifact, found: Needs) -> Fate:
    reason = found.reasons.get(artifact.id, "somebody else removed it")
    return Fate(artifact.id, artifact.kind, artifact.bytes, "kept", reason)


def _unreadable(name: str) -> Fate:
    return Fate(
        name, name.partition("-")[0], 0, "kept", "its manifest cannot be read: look at it, and delete it by hand"
    )


def _why(artifact: Artifact, found: Needs) -> str:
    if artifact.id in found.over:
        return found.over[artifact.id]
    job = artifact.meta.get("job_id")
    role = {"model": "a model", "report": "a report", "shard": "answers of a teacher"}.get(artifact.kind)
    if role is None:
        return "its file was deleted" if artifact.kind == "file" else "no job mentions it"
    if job not in found.known_jobs:
        return f"{role} of job {job}, which was deleted"
    return f"{role} of job {job} that was not published, and the job's retention is over"


def _batches(items: Sequence[Artifact], size: int) -> Iterator[list[Artifact]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _show(result: Round) -> str:
    would: dict[What, str] = {"removed": "would go" if result.dry_run else "gone", "marked": "marked", "kept": "kept"}
    lines = [f"{would[one.what]:<9}{_size(one.bytes):>10}  {one.name}  {one.reason}" for one in result.fates]
    totals = ", ".join(
        f"{len(result.of(what))} {would[what]} ({_size(sum(one.bytes for one in result.of(what)))})" for what in would
    )
    return "\n".join([*lines, totals])


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="understudy gc", description="Remove what no job, alias or file needs.")
    parser.add_argument("--dry-run", action="store_true", help="only list what would go, and why the rest stays")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--now", action="store_true", help="what is marked goes at once, not a grace period later")
    parser.add_argument("--adopt", action="store_true", help="take over a store that another database has filled")
    options = parser.parse_args(arguments)
    configure("gc")
    settings = Settings()
    try:
        require_file(settings.database)
        with closing(Database(settings.database)) as database:
            prepare(database)
            collector = Collector(database, ArtifactStore(settings.artifact_root), bounds_of(settings), settings.work)
            result = collector.collect(dry_run=options.dry_run, at_once=options.now, adopt=options.adopt)
    except (SQLAlchemyError, UnderstudyError) as error:
        told = unusable(error, settings.database) if isinstance(error, SQLAlchemyError) else error
        print(json.dumps(told.body()) if options.json else f"understudy gc: {told.message}", file=sys.stderr)
        return 1
    print(json.dumps(result.as_json(), indent=1) if options.json else _show(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
