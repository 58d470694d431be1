"""A job's way through its phases in SQL: submit, finish a phase, cancel, pause, resume, and recover what was lost.

A phase is finished by one UPDATE that exactly one process can win: it moves the job on where no unfinished item of the
phase is left, and the same transaction inserts the items of the next. There is no chord and nobody waits. Knows neither
what the phases do nor how a message is sent.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, exists, func, insert, select, true, update

from services.orchestrator.database import Database, jobs, work_items
from services.orchestrator.jobs import (
    ACTIVE,
    QUEUES,
    Event,
    Item,
    Job,
    JobError,
    NewItem,
    Phase,
    Queue,
    Status,
    new_id,
)
from services.orchestrator.leases import LONGEST_PAUSE, end_items, give_up, item_of
from services.orchestrator.store import add_event, insert_job, locked_job, write_job
from understudy.errors import Unavailable, UnderstudyError

__all__ = ["Flow", "Next"]


@dataclass(frozen=True)
class Next:
    """The items of a phase that begins."""

    queue: Queue
    items: Sequence[NewItem]


Advance = Callable[[Job, list[Mapping[str, Any]]], tuple[Job, Next | None]]
"""Takes a job that has just moved to its next phase and the results of the one before, in order.

The job's row is locked and its move not committed yet: what it does beside that, it may do again.
"""


class Flow:
    def __init__(
        self,
        database: Database,
        max_attempts: int,
        clock: Callable[[], float] = time.time,
        lease_seconds: float = 30.0,
    ) -> None:
        self._database = database
        self._lease = lease_seconds
        self._max_attempts = max_attempts
        self._clock = clock

    def submit(self, job: Job, first: Next, also: Callable[[Connection], None] = lambda _: None) -> None:
        """Store a job with its first items, and in the same transaction whatever `also` writes."""
        with self._database.write() as sql:
            insert_job(sql, job)
            self._insert_items(sql, job, first)
            add_event(sql, job.id, Event(message="Job created"), self._clock())
            also(sql)

    def finishable(self) -> list[tuple[str, Phase]]:
        """Jobs whose phase has no unfinished item: also those whose last worker died before it could move them on."""
        query = select(jobs.c.id, jobs.c.phase).where(jobs.c.status.in_(ACTIVE), ~_unfinished()).order_by(jobs.c.seq)
        with self._database.read() as sql:
            return [(row.id, row.phase) for row in sql.execute(query)]

    def finish(
        self, job_id: str, phase: Phase, following: Phase, advance: Advance, *, since: float | None = None
    ) -> Job | None:
        """Move the job from a finished phase to the next; None when it is not finished or another process was first.

        `advance` may answer with the job in the phase that it was in, and more of that phase's items: its next round.
        `since` is when the phase began that the caller saw finished: a round that another process has begun meanwhile
        began later. An error that `advance` raises fails the job, but Unavailable, which leaves all as it was.
        """
        now = self._clock() if since is None else max(self._clock(), math.nextafter(since, math.inf))
        seen = jobs.c.phase_started_at == since if since is not None else true()
        move = (
            update(jobs)
            .where(jobs.c.id == job_id, jobs.c.phase == phase, seen, jobs.c.status.in_(ACTIVE), ~_unfinished())
            .values(phase=following, phase_started_at=now)
        )
        with self._database.write() as sql:
            if sql.execute(move).rowcount != 1:
                return None
            job = locked_job(sql, job_id)
            job = job.model_copy(update={"paused_before_phase": job.paused_seconds})
            known = {*job.facts.cuts, *job.facts.findings}
            try:
                job, coming = advance(job, _results(sql, job_id, phase))
            except Unavailable:
                raise  # all is as it was, and whoever finds the phase finished next tries again
            except UnderstudyError as error:
                job, coming = job.to("failed", error=JobError.of(error), finished_at=int(now)), None
                add_event(sql, job_id, Event(message=error.message, level="error"), now)
            else:
                for event in _news(job, known):
                    add_event(sql, job_id, event, now)
                begins = f"Phase {phase} is done, {following} begins" if coming else "The job has succeeded"
                if coming and job.phase == phase:
                    begins = f"Phase {phase} goes on with another round"
                add_event(sql, job_id, Event(message=begins, data={"phase": job.phase if coming else following}), now)
            if coming:
                self._insert_items(sql, job, coming)
            write_job(sql, job)
        return job

    def end(self, job_id: str, status: Status, event: Event, error: JobError | None = None) -> Job:
        """Cancel or fail a job, with all that waits or runs for it. Raises Conflict when it has ended."""
        now = self._clock()
        with self._database.write() as sql:
            job = locked_job(sql, job_id).to(status, finished_at=int(now), error=error)
            write_job(sql, job)
            end_items(sql, job_id, now)
            add_event(sql, job_id, event, now)
        return job

    def pause(self, job_id: str) -> Job:
        """Stop what runs and keep what is done; what ran waits for `resume`, and this was no attempt."""
        with self._database.write() as sql:
            job = locked_job(sql, job_id).to("paused", paused_at=self._clock())
            write_job(sql, job)
            of_job = update(work_items).where(work_items.c.job_id == job_id)
            sql.execute(
                of_job.where(work_items.c.state == "running").values(
                    state="pending",
                    attempts=work_items.c.attempts - 1,
                    worker=None,
                    lease_until=None,
                )
            )
            sql.execute(of_job.where(work_items.c.state == "pending").values(sent_at=None, not_before=0.0))
            add_event(sql, job_id, Event(message="Job paused"), self._clock())
        return job

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on; the pause is none of its time."""
        with self._database.write() as sql:
            job = locked_job(sql, job_id)
            away = self._clock() - job.paused_at if job.paused_at else 0.0
            job = job.to("queued", paused_at=None, paused_seconds=job.paused_seconds + max(0.0, away))
            write_job(sql, job)
            # An earlier version could pause a job while one of its items ran on. Where that was the item's last attempt
            # and its worker died, it waits with all of them used, and nobody could claim it.
            spent = (work_items.c.state == "pending") & (work_items.c.attempts >= work_items.c.max_attempts)
            one_more = update(work_items).where(work_items.c.job_id == job_id, spent)
            sql.execute(one_more.values(attempts=work_items.c.max_attempts - 1))
            add_event(sql, job_id, Event(message="Job resumed"), self._clock())
        return job

    def spend(self, job_id: str, teacher_tokens: int) -> int:
        """Note what a teacher has read for the job, and return how much that is by now."""
        with self._database.write() as sql:
            job = locked_job(sql, job_id)
            job = job.with_facts(teacher_tokens=job.facts.teacher_tokens + teacher_tokens)
            write_job(sql, job)
        return job.facts.teacher_tokens

    def recover(self) -> list[Item]:
        """Take back the items whose worker is not heard of any more; one that had all its attempts fails its job."""
        now = self._clock()
        self._mend_times(now)
        lost = (work_items.c.state == "running") & (work_items.c.lease_until < now)
        with self._database.read() as sql:
            items = [item_of(row) for row in sql.execute(select(work_items).where(lost))]
        recovered = []
        for item in items:
            with self._database.write() as sql:
                if self._recover(sql, item, now):
                    recovered.append(item)
        return recovered

    def results(self, job_id: str, phase: Phase) -> list[Mapping[str, Any]]:
        """What the items of a phase answered, in order."""
        with self._database.read() as sql:
            return _results(sql, job_id, phase)

    def ended(self, item_ids: Sequence[str]) -> list[str]:
        """Those of these items that nobody works on any more, nor will."""
        late = work_items.c.finished_at < self._clock() - self._lease  # by now whoever had it knows
        over = late & work_items.c.state.in_(("done", "failed"))
        query = select(work_items.c.id).where(work_items.c.id.in_(item_ids), over)
        with self._database.read() as sql:
            return list(sql.scalars(query))

    def items(self, job_id: str, phase: Phase) -> list[Item]:
        with self._database.read() as sql:
            return [item_of(row) for row in sql.execute(_of_phase(job_id, phase))]

    def _mend_times(self, now: float) -> None:
        """Bring back what lies further ahead than we ever write: the clock was set back since.

        A worker that lives extends its lease from the new time on; one that is dead is found after the usual wait.
        """
        waits, runs = work_items.c.state == "pending", work_items.c.state == "running"
        of_a_queue = work_items.c.queue.in_(QUEUES)  # all of them, in the order of the index
        farthest = {
            work_items.c.lease_until: (runs, now + 2 * self._lease, now + self._lease),
            work_items.c.not_before: (waits, now + LONGEST_PAUSE, now),
            work_items.c.sent_at: (waits & of_a_queue, now + self._lease, now),
        }
        for column, (such, most, mended) in farthest.items():
            wrong = such & (column > most)
            with self._database.read() as sql:
                if sql.scalar(select(work_items.c.id).where(wrong).limit(1)) is None:
                    continue
            with self._database.write() as sql:
                sql.execute(update(work_items).where(wrong).values({column.name: mended}))

    def _recover(self, sql: Connection, item: Item, now: float) -> bool:
        """Whether it was this process that took the item back."""
        job = locked_job(sql, item.job_id)
        held = (work_items.c.id == item.id) & (work_items.c.token == item.token) & (work_items.c.state == "running")
        # Its worker's name stays: it is a suspect now, and runs alone. From the second time on it also waits a little.
        pause = 0.0 if item.attempts == 1 else random.uniform(0, min(LONGEST_PAUSE, self._lease * item.attempts))
        values = {"state": "pending", "lease_until": None, "sent_at": None, "not_before": now + pause}
        if sql.execute(update(work_items).where(held).values(**values)).rowcount != 1:
            return False  # it was claimed again meanwhile
        where = f"{item.phase} {item.index + 1}, attempt {item.attempts} of {item.max_attempts}"
        event = Event(message=f"{where}: worker {item.worker} has not been heard of", level="warn")
        if item.attempts >= item.max_attempts and job.active:
            error = JobError(code="worker_lost", message=f"{where}: the worker died each time it had this work")
            add_event(sql, job.id, Event(message=error.message, level="error"), now)
            give_up(sql, job, item, error, now)
        else:
            add_event(sql, job.id, event, now)
        return True

    def _insert_items(self, sql: Connection, job: Job, coming: Next) -> None:
        fresh = {"state": "pending", "attempts": 0, "max_attempts": self._max_attempts, "token": 0, "not_before": 0.0}
        fresh |= {"sends": 0, "completed": 0, "created_at": self._clock()}
        mine = (work_items.c.job_id == job.id) & (work_items.c.phase == job.phase)
        before = sql.scalar(select(func.count()).select_from(work_items).where(mine)) or 0  # of earlier rounds
        values = [
            {
                **fresh,
                "id": new_id("item-"),
                "job_id": job.id,
                "phase": job.phase,
                "index": index,
                "queue": coming.queue,
                "payload": dict(item.payload),
                "total": item.total,
            }
            for index, item in enumerate(coming.items, start=before)
        ]
        sql.execute(insert(work_items), values)


def _news(job: Job, known: Collection[str]) -> list[Event]:
    """What a phase has found out that its users should read."""
    cuts = [Event(message=cut, level="warn") for cut in job.facts.cuts if cut not in known]
    return cuts + [Event(message=found) for found in job.facts.findings if found not in known]


def _unfinished() -> Any:
    """An item of the job's current phase that is not done."""
    mine = (work_items.c.job_id == jobs.c.id) & (work_items.c.phase == jobs.c.phase)
    # Each state by its name: an index finds what is so, and would have to read all that is done for what is not.
    return exists().where(mine, work_items.c.state.in_(("pending", "running", "failed"))).correlate(jobs)


def _of_phase(job_id: str, phase: Phase) -> Any:
    mine = (work_items.c.job_id == job_id) & (work_items.c.phase == phase)
    return select(work_items).where(mine).order_by(work_items.c.index)


def _results(sql: Connection, job_id: str, phase: Phase) -> list[Mapping[str, Any]]:
    return [row.result for row in sql.execute(_of_phase(job_id, phase))]
