"""One work item from claim to answer: holds the lease while the work runs and records how it ended.

Knows no phase's work, which `pipeline` lists, and no broker.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from services.orchestrator.away import is_away, no_space
from services.orchestrator.context import Context
from services.orchestrator.jobs import Event, Item, JobError, Queue
from services.orchestrator.pipeline import STAGES
from understudy import tracing
from understudy.artifacts import published_for
from understudy.errors import InternalError, LeaseLost, UnderstudyError

__all__ = ["Hold", "WorkerStops", "execute"]

log = structlog.get_logger()
T = TypeVar("T")

INSIST_SECONDS = 0.2


class WorkerStops(Exception):
    """This worker shuts down: the item goes back as it was. It never leaves the process: no error of the tree."""


def execute(context: Context, item_id: str, worker: str, stopping: threading.Event) -> Queue | None:
    """Claim, run and record one item, and return its queue; None where there was nothing to claim, as when a message
    came twice."""
    suspect = _patiently(lambda: context.leases.is_suspect(item_id), stopping)
    patience = context.settings.lease_seconds
    with context.turns.take(alone=suspect, patience=patience, stop=stopping.is_set) as ours:
        if not ours:
            context.leases.postpone(item_id)
            return None
        return _execute(context, item_id, worker, stopping)


def _execute(context: Context, item_id: str, worker: str, stopping: threading.Event) -> Queue | None:
    item = _patiently(lambda: context.leases.claim(item_id, worker), stopping)
    if item is None:
        return None
    with (
        published_for(item.id),
        structlog.contextvars.bound_contextvars(job_id=item.job_id, item=item.id, phase=item.phase, index=item.index),
    ):
        log.info("item_claimed", attempt=item.attempts, worker=worker)
        started, outcome = time.monotonic(), "lost"  # also where its end cannot be written: its lease runs out
        context.metrics.item_began(item)
        try:
            outcome = _run(context, item, stopping)
        finally:
            seconds = time.monotonic() - started
            context.metrics.item_ended(item, outcome, seconds)
        log.info("item_ended", outcome=outcome, seconds=round(seconds, 2))
    return item.queue


def _patiently(ask: Callable[[], T], stopping: threading.Event) -> T:
    """Ask, however long the database is away: the message is here, and another is sent only much later."""
    while True:
        try:
            return ask()
        except SQLAlchemyError as error:
            if not is_away(error) or stopping.wait(INSIST_SECONDS):
                raise
            log.warning("claim_failed", error=str(error)[:300])


def _run(context: Context, item: Item, stopping: threading.Event) -> str:
    try:
        with Hold(context, item, stopping) as hold:
            outcome = _work(context, item, hold)
    except LeaseLost:
        outcome = "lost"
    except WorkerStops:
        outcome = _release(context, item)
    except UnderstudyError as error:
        outcome = _fail(context, item, error)
    except Exception as error:  # a defect, or the machine: recorded by type, logged whole, and tried again
        log.exception("defect")
        outcome = _fail(context, item, no_space(error) or _defect(item, error), retryable=True)
    if outcome in ("done", "failed"):
        # Never else: the item waits for another attempt, or somebody works in that folder now. Sweeps remove the rest.
        shutil.rmtree(context.settings.work / item.id, ignore_errors=True)
    return outcome


def _work(context: Context, item: Item, hold: Hold) -> str:
    """Do the work and record its answer; where the database goes away in between, give the item back untouched."""
    try:
        job = context.jobs.get(item.job_id)
        told: dict[str, Any] = {"job_id": job.id, "item": item.id, "index": item.index, "attempt": item.attempts}
        with tracing.span(item.phase, parent=job.traceparent, **told):
            result = STAGES[item.phase].run(context, job, item, hold)
    except SQLAlchemyError as error:
        if not is_away(error):
            raise
        log.warning("database_away", error=str(error)[:300])
        hold.insist(lambda: context.leases.release(item))
        return "released"
    answer = result.model_dump(mode="json")
    hold.insist(lambda: context.leases.complete(item, answer, hold.total))
    return "done"


def _release(context: Context, item: Item) -> str:
    try:
        context.leases.release(item)
    except LeaseLost:
        return "lost"
    except SQLAlchemyError as error:
        if not is_away(error):
            raise
        return "lost"  # its lease runs out, and a sweep takes it back: this worker has no time to wait
    return "released"


def _fail(context: Context, item: Item, error: UnderstudyError, *, retryable: bool | None = None) -> str:
    base = context.settings.retry_after * 2 ** (item.attempts - 1)
    pause = (error.retry_after or 0) + base * random.uniform(0.5, 1.5)
    again = error.retryable if retryable is None else retryable
    log.warning("item_failed", code=error.code, message=error.message, attempt=item.attempts)
    fault, until = JobError.of(error), time.monotonic() + context.settings.lease_seconds
    while True:
        try:
            retried = context.leases.fail(item, fault, retryable=again, pause=pause)
        except LeaseLost:
            return "lost"
        except SQLAlchemyError as away:
            if not is_away(away):
                raise
            if time.monotonic() > until:
                return "lost"  # nobody extends its lease any more: a sweep takes it back
            time.sleep(INSIST_SECONDS)
        else:
            return "retried" if retried else "failed"


def _defect(item: Item, error: Exception) -> UnderstudyError:
    return InternalError(f"an unexpected error in phase {item.phase}: {type(error).__name__}: {error}")


class Hold:
    """Keeps an item's lease alive from a thread of its own, carries its progress, and knows when the work must stop."""

    def __init__(self, context: Context, item: Item, stopping: threading.Event) -> None:
        self.completed = 0
        self.total = item.total
        self._context = context
        self._item = item
        self._stopping = stopping
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{item.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        if time.monotonic() - self._last > self._context.settings.lease_seconds:
            self._renew()  # this process stood still, and this thread woke up before the one that beats
        if self._lost.is_set():
            raise LeaseLost(f"{self._item.phase} item {self._item.index} is no longer this worker's")
        if self._stopping.is_set():
            raise WorkerStops

    def progress(self, completed: int, total: int | None = None) -> None:
        self.completed = completed
        self.total = self.total if total is None else total
        self.check()

    def event(self, event: Event) -> None:
        self.check()
        self._context.jobs.add_event(self._item.job_id, event)

    def insist(self, write: Callable[[], None]) -> None:
        """Write what must not be lost to a database that is locked, full or away, for as long as the item is ours."""
        while True:
            try:
                return write()
            except SQLAlchemyError as error:
                if not is_away(error):
                    raise
                log.warning("write_failed", item=self._item.id, error=str(error)[:300])
                self.check()
                time.sleep(INSIST_SECONDS)

    def _beat(self) -> None:
        while not self._lost.is_set() and not self._ended.wait(self._context.settings.heartbeat_seconds):
            self._renew()

    def _renew(self) -> None:
        try:
            self._context.leases.heartbeat(self._item, self.completed, self.total)
            self._last = time.monotonic()
        except LeaseLost:
            self._lost.set()
        except SQLAlchemyError as error:
            log.warning("heartbeat_failed", item=self._item.id, error=str(error)[:300])
            if time.monotonic() - self._last > self._context.settings.lease_seconds:
                self._lost.set()  # by now somebody else may have it, and we cannot find out
