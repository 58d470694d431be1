"""Files, jobs and their events in SQL. The row is the truth: a change of state is checked where it is written.

Knows nothing of work items (see `work`) and nothing of HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, insert, select, update

from services.orchestrator.database import Database, events, files, jobs
from services.orchestrator.jobs import ENDED, Event, Job, Status, new_id
from understudy.errors import Conflict, InvalidRequest, NotFound

__all__ = ["FileRow", "FileStore", "JobStore", "StoredEvent", "add_event", "locked_job", "write_job"]

_COLUMNS = {"id", "status", "phase", "phase_started_at", "created_at", "finished_at"}
_OUTCOME = {"facts", "paused_at", "paused_seconds", "paused_before_phase", "error", "fine_tuned_model", "result_files"}


@dataclass(frozen=True)
class FileRow:
    """An uploaded or resulting file; its bytes are the artifact's one file."""

    id: str
    created_at: int
    filename: str
    purpose: str
    bytes: int
    artifact: str


@dataclass(frozen=True)
class StoredEvent:
    id: str
    created_at: int
    event: Event
    seq: int


class FileStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, file: FileRow, also: Callable[[Connection], None] = lambda _: None) -> FileRow:
        """Keep a file's row, with whatever `also` writes; adding the same id again does neither."""
        with self._database.write() as sql:
            if sql.scalar(select(files.c.id).where(files.c.id == file.id)) is None:
                sql.execute(insert(files).values(**file.__dict__))
                also(sql)
        return file

    def get(self, file_id: str, *, param: str | None = None) -> FileRow:
        with self._database.read() as sql:
            row = _by_id(sql, files, file_id)
        if row is None:
            raise NotFound(f"there is no file '{file_id[:100]}'", param=param)
        return _file(row)

    def page(
        self, after: str | None, limit: int, purpose: str | None = None, *, newest_first: bool = True
    ) -> tuple[list[FileRow], bool]:
        """Raises InvalidRequest for a purpose that no file can have: PostgreSQL does not take a NUL."""
        query = select(files)
        if purpose is not None:
            if not purpose.isprintable():
                raise InvalidRequest("a purpose has printable characters only", param="purpose")
            query = query.where(files.c.purpose == purpose)
        with self._database.read() as sql:
            rows, more = _page(sql, query, files, after, limit, newest_first=newest_first)
        return [_file(row) for row in rows], more

    def delete(self, file_id: str) -> bool:
        """Remove a file's row; True when no other row needs its artifact. Raises Conflict while a job reads it."""
        file = self.get(file_id)
        with self._database.write() as sql:
            for request, status in sql.execute(select(jobs.c.request, jobs.c.status)):
                if file_id in _files_of(request) and status not in ENDED:
                    raise Conflict(
                        f"file '{file_id}' is read by job {request['id']}, which is {status}: cancel it first"
                    )
            sql.execute(files.delete().where(files.c.id == file_id))
            return sql.scalar(select(files.c.id).where(files.c.artifact == file.artifact).limit(1)) is None

    def check_unheld(self, artifact: str) -> None:
        """Raise Conflict where a file holds these bytes."""
        with self._database.read() as sql:
            if holder := sql.scalar(select(files.c.id).where(files.c.artifact == artifact).limit(1)):
                raise Conflict(f"file '{holder}' holds '{artifact}'")


class JobStore:
    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def get(self, job_id: str) -> Job:
        with self._database.read() as sql:
            row = _by_id(sql, jobs, job_id)
        if row is None:
            raise NotFound(f"there is no job '{job_id[:100]}'", param="fine_tuning_job_id")
        return _job(row)

    def page(
        self,
        after: str | None,
        limit: int,
        metadata: Mapping[str, str] | None = None,
        *,
        without_metadata: bool = False,
    ) -> tuple[list[Job], bool]:
        """Newest first. `metadata` keeps the jobs with all of its pairs, `without_metadata` those that have none."""
        with self._database.read() as sql:
            if not metadata and not without_metadata:
                rows, more = _page(sql, select(jobs), jobs, after, limit)
                return [_job(row) for row in rows], more
            # Filtered here: databases disagree on how a key is looked up in JSON, and jobs are few.
            rows, _ = _page(sql, select(jobs), jobs, after, None)
        found = [job for job in map(_job, rows) if _matches(job, metadata or {}, without_metadata)]
        return found[:limit], len(found) > limit

    def unfinished(self) -> list[Job]:
        """Every job that has not ended, a paused one too."""
        with self._database.read() as sql:
            return [_job(row) for row in sql.execute(select(jobs).where(jobs.c.status.not_in(ENDED)))]

    def update(self, job_id: str, status: Status, event: Event | None = None, **changes: Any) -> Job:
        """Move a job to another state. Raises Conflict when the table of moves has no such move."""
        with self._database.write() as sql:
            job = locked_job(sql, job_id).to(status, **changes)
            write_job(sql, job)
            if event:
                add_event(sql, job_id, event, self._clock())
        return job

    def add_event(self, job_id: str, event: Event) -> None:
        with self._database.write() as sql:
            add_event(sql, job_id, event, self._clock())

    def events(self, job_id: str, after: str | None, limit: int) -> tuple[list[StoredEvent], bool]:
        """Newest first, as OpenAI lists them."""
        with self._database.read() as sql:
            rows, more = _page(sql, select(events).where(events.c.job_id == job_id), events, after, limit)
        return [_event(row) for row in rows], more

    def story(self, job_id: str, seen: int, limit: int) -> list[StoredEvent]:
        """The events behind the one with the number `seen`, oldest first."""
        query = select(events).where(events.c.job_id == job_id, events.c.seq > seen).order_by(events.c.seq)
        with self._database.read() as sql:
            return [_event(row) for row in sql.execute(query.limit(limit))]

    def place(self, job_id: str, event_id: str) -> int:
        """The number of one of the job's events. Raises InvalidRequest where it has none of that id."""
        with self._database.read() as sql:
            row = _by_id(sql, events, event_id)
        if row is None or row.job_id != job_id:
            raise InvalidRequest(f"job {job_id} has no event '{event_id[:100]}' to continue after", param="after")
        return int(row.seq)


def _by_id(sql: Connection, table: Table, row_id: str, *, lock: bool = False) -> Row[Any] | None:
    if not row_id.isprintable():
        return None  # such an id is in no table, and PostgreSQL does not take a NUL
    query = select(table).where(table.c.id == row_id)
    return sql.execute(query.with_for_update() if lock else query).one_or_none()


def locked_job(sql: Connection, job_id: str) -> Job:
    """Read a job that this transaction will change; nobody else can meanwhile."""
    row = _by_id(sql, jobs, job_id, lock=True)
    if row is None:
        raise NotFound(f"there is no job '{job_id[:100]}'", param="fine_tuning_job_id")
    return _job(row)


def write_job(sql: Connection, job: Job) -> None:
    """Write what may change of a job that `locked_job` returned."""
    outcome = job.model_dump(mode="json", include=_OUTCOME)
    columns = job.model_dump(include=_COLUMNS - {"id", "created_at"})
    sql.execute(update(jobs).where(jobs.c.id == job.id).values(outcome=outcome, **columns))


def insert_job(sql: Connection, job: Job) -> None:
    request = job.model_dump(mode="json", exclude=(_COLUMNS | _OUTCOME) - {"id"})
    outcome = job.model_dump(mode="json", include=_OUTCOME)
    sql.execute(insert(jobs).values(request=request, outcome=outcome, **job.model_dump(include=_COLUMNS)))


def add_event(sql: Connection, job_id: str, event: Event, now: float) -> None:
    # Whoever follows a job reads its events by number: they must become visible in the order of their numbers.
    sql.execute(select(jobs.c.seq).where(jobs.c.id == job_id).with_for_update())
    values = event.model_dump(mode="json")
    sql.execute(insert(events).values(id=new_id("ftevent-"), job_id=job_id, created_at=int(now), **values))


def _page(
    sql: Connection,
    query: Select[Any],
    table: Table,
    after: str | None,
    limit: int | None,
    *,
    newest_first: bool = True,
) -> tuple[Sequence[Row[Any]], bool]:
    """The rows that follow the row `after`, and whether there are more than `limit` of them."""
    seq = table.c.seq
    if after is not None:
        row = _by_id(sql, table, after)
        if row is None:
            raise InvalidRequest(f"there is nothing with the id '{after[:100]}' to continue after", param="after")
        query = query.where(seq < row.seq if newest_first else seq > row.seq)
    query = query.order_by(seq.desc() if newest_first else seq)
    if limit is None:
        return sql.execute(query).all(), False
    rows = sql.execute(query.limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def _matches(job: Job, wanted: Mapping[str, str], without: bool) -> bool:
    if without:
        return job.metadata is None
    return all((job.metadata or {}).get(key) == value for key, value in wanted.items())


def _files_of(request: Mapping[str, Any]) -> set[str]:
    spec = request["spec"]
    return {request["training_file"], request["validation_file"], spec["test_file"], spec.get("unlabelled_file")}


def _file(row: Row[Any]) -> FileRow:
    return FileRow(**{name: value for name, value in row._mapping.items() if name != "seq"})


def _job(row: Row[Any]) -> Job:
    columns = {name: row._mapping[name] for name in _COLUMNS}
    return Job.model_validate({**row.request, **row.outcome, **columns})


def _event(row: Row[Any]) -> StoredEvent:
    event = Event(level=row.level, type=row.type, message=row.message, data=row.data)
    return StoredEvent(row.id, row.created_at, event, row.seq)
