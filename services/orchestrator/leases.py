"""A worker's view of a work item: claim it, keep it, give an answer for it or give it back.

A claim is one UPDATE that one worker can win. It brings a lease, which heartbeats extend, and a token, which grows with
every claim: whoever holds an older one, or an item that does not run any more, has lost it and is refused. Cancelling,
failing and pausing a job stop its items, so a worker learns of all of them in one way. Knows nothing of the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Row, and_, or_, select, update
from sqlalchemy.exc import DBAPIError

from services.orchestrator.database import Database, jobs, work_items
from services.orchestrator.jobs import ACTIVE, Event, Item, Job, JobError
from services.orchestrator.store import add_event, locked_job, write_job
from understudy.errors import LeaseLost

__all__ = ["LONGEST_PAUSE", "Leases", "end_items", "give_up", "item_of"]

LONGEST_PAUSE = 120.0  # seconds until another attempt, whatever a teacher asks for


class Leases:
    def __init__(self, database: Database, lease_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._lease = lease_seconds
        self._clock = clock

    def claim(self, item_id: str, worker: str) -> Item | None:
        """Take an item that waits, or whose holder has not been heard of; None when it is not to be had."""
        now = self._clock()
        waiting = and_(work_items.c.state == "pending", work_items.c.not_before <= now)
        abandoned = and_(work_items.c.state == "running", work_items.c.lease_until < now)
        job_id = select(work_items.c.job_id).where(work_items.c.id == item_id).scalar_subquery()
        active = select(jobs.c.seq).where(jobs.c.id == job_id, jobs.c.status.in_(ACTIVE))
        claim = (
            update(work_items)
            .where(work_items.c.id == item_id, or_(waiting, abandoned))
            .where(work_items.c.attempts < work_items.c.max_attempts)
            .values(
                state="running",
                worker=worker,
                token=work_items.c.token + 1,
                attempts=work_items.c.attempts + 1,
                lease_until=now + self._lease,
                started_at=now,
            )
            .returning(work_items)
        )
        with self._database.write() as sql:
            # Whoever pauses or ends the job waits for this claim and then sees it, or is waited for and then seen. The
            # job comes first and its items then, as everywhere; claims of one job share the lock.
            if sql.scalar(active.with_for_update(read=True)) is None:
                return None
            row = sql.execute(claim).one_or_none()
        if row is None:
            return None
        # In a transaction of its own: of two claims that share the job's lock, neither could change the job. The claim
        # holds whether or not the database is there for this as well: the end of the phase says it again.
        with suppress(DBAPIError):
            self._note_start(row.job_id)
        return item_of(row)

    def _note_start(self, job_id: str) -> None:
        queued = (jobs.c.id == job_id) & (jobs.c.status == "queued")
        with self._database.read() as sql:  # most items are not the first of their job
            if sql.scalar(select(jobs.c.seq).where(queued)) is None:
                return
        with self._database.write() as sql:
            sql.execute(update(jobs).where(queued).values(status="running"))

    def is_suspect(self, item_id: str) -> bool:
        """Whether the last worker that had the item was not heard of again: it may be what ends its workers."""
        held = or_(work_items.c.state == "pending", work_items.c.lease_until < self._clock())
        lost = select(work_items.c.id).where(work_items.c.id == item_id, work_items.c.worker.is_not(None), held)
        with self._database.read() as sql:
            return sql.scalar(lost.where(work_items.c.state.in_(("pending", "running")))) is not None

    def postpone(self, item_id: str) -> None:
        """Let an item that waits wait a little longer, and have a message sent for it then."""
        waits = (work_items.c.id == item_id) & (work_items.c.state == "pending")
        later = {"sent_at": None, "not_before": self._clock() + self._lease / 2}
        with self._database.write() as sql:
            sql.execute(update(work_items).where(waits).values(later))

    def heartbeat(self, item: Item, completed: int, total: int) -> None:
        """Extend the lease and show progress. Raises LeaseLost."""
        with self._database.write() as sql:
            _write_held(sql, item, lease_until=self._clock() + self._lease, completed=completed, total=total)

    def keep(self, sql: Connection, item: Item) -> None:
        """Have the item still be this worker's when this transaction is committed. Raises LeaseLost."""
        _write_held(sql, item, lease_until=self._clock() + self._lease)

    def complete(self, item: Item, result: Mapping[str, Any], total: int) -> None:
        """Record the answer, once. Raises LeaseLost."""
        now = self._clock()
        with self._database.write() as sql:
            _write_held(
                sql,
                item,
                state="done",
                result=dict(result),
                error=None,
                completed=total,
                total=total,
                lease_until=None,
                finished_at=now,
            )

    def release(self, item: Item) -> None:
        """Give the item back untouched, for another worker at once; this was no attempt. Raises LeaseLost."""
        with self._database.write() as sql:
            back = {"state": "pending", "attempts": item.attempts - 1, "worker": None}
            _write_held(sql, item, **back, lease_until=None, sent_at=None)

    def fail(self, item: Item, error: JobError, *, retryable: bool, pause: float) -> bool:
        """Give the item back for another attempt after `pause` seconds (True), or give it up (False).

        What no attempt can mend fails the job; of what they only did not, the job decides. Raises LeaseLost.
        """
        now, pause = self._clock(), min(pause, LONGEST_PAUSE)
        again = retryable and item.attempts < item.max_attempts
        values: dict[str, Any] = {"error": error.model_dump(), "lease_until": None}
        if again:
            values |= {"state": "pending", "not_before": now + pause, "sent_at": None, "worker": None}
        else:
            values |= {"state": "failed", "finished_at": now}
        with self._database.write() as sql:
            job = locked_job(sql, item.job_id)
            if not job.active:  # an earlier version could pause it and let this run on: it is done again then
                raise LeaseLost(f"job {job.id} is {job.status}: nobody works on it")
            _write_held(sql, item, **values)
            add_event(sql, item.job_id, _story(item, error, again, pause), now)
            if not again:
                give_up(sql, job, item, error, now, spare=retryable)
        return again


def give_up(sql: Connection, job: Job, item: Item, error: JobError, now: float, *, spare: bool = True) -> None:
    """Fail a job for an item that had all its attempts, or set the item aside where the job may `spare` it.

    An item that is set aside is done: its answer says that there is none.
    """
    if spare and job.spares(item.phase, item.total + _rows_set_aside(sql, item)):
        answer = {"set_aside": True, **item.payload}
        values = {"state": "done", "result": answer, "error": error.model_dump(), "lease_until": None}
        sql.execute(update(work_items).where(work_items.c.id == item.id).values(finished_at=now, completed=0, **values))
        message = f"{item.phase} {item.index + 1} is set aside, with {item.total} rows"
        add_event(sql, job.id, Event(message=message, level="warn", data={"index": item.index}), now)
        return
    if spare and job.may_spare(item.phase):
        most = f"{error.message}; with it more than {job.distillation.max_failed_share:.1%} of the rows are set aside"
        error = error.model_copy(update={"message": most})
    write_job(sql, job.to("failed", error=error, finished_at=int(now)))
    end_items(sql, job.id, now)


def _rows_set_aside(sql: Connection, item: Item) -> int:
    """Of the other items of its phase."""
    others = (work_items.c.job_id == item.job_id) & (work_items.c.phase == item.phase) & (work_items.c.id != item.id)
    done = select(work_items.c.total, work_items.c.result).where(others, work_items.c.state == "done")
    failed = done.where(work_items.c.error.is_not(None))  # an answer takes the error of the attempts before it away
    return sum(row.total for row in sql.execute(failed) if row.result.get("set_aside"))


def end_items(sql: Connection, job_id: str, now: float) -> None:
    """Stop what waits or runs for a job that has ended: its workers are refused from here on."""
    sql.execute(
        update(work_items)
        .where(work_items.c.job_id == job_id, work_items.c.state.in_(("pending", "running")))
        .values(state="failed", lease_until=None, finished_at=now)
    )


def item_of(row: Row[Any]) -> Item:
    return Item.model_validate(dict(row._mapping))


def _write_held(sql: Connection, item: Item, **values: Any) -> None:
    held = and_(work_items.c.id == item.id, work_items.c.token == item.token, work_items.c.state == "running")
    if sql.execute(update(work_items).where(held).values(**values)).rowcount != 1:
        raise LeaseLost(f"{item.phase} item {item.index} of job {item.job_id} is no longer this worker's")


def _story(item: Item, error: JobError, again: bool, pause: float) -> Event:
    what = f"{item.phase} {item.index + 1}, attempt {item.attempts} of {item.max_attempts}: {error.message}"
    message = f"{what} (next attempt in {pause:.0f} s)" if again else what
    data = {"phase": item.phase, "index": item.index, "code": error.code, "param": error.param}
    return Event(message=message, level="warn" if again else "error", data=data)
