"""One work item from claim to answer: holds the lease while the work runs and records how it ended.

Knows no phase's work, which `pipeline` lists, and no broker.
"""

from __future__ import annotations

import errno
import random
import shutil
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import DBAPIError

from services.orchestrator.context import Context
from services.orchestrator.jobs import ENDED, Event, Item, JobError
from services.orchestrator.pipeline import STAGES
from understudy.errors import InternalError, LeaseLost, Unavailable, UnderstudyError

__all__ = ["Hold", "WorkerStops", "execute"]

log = structlog.get_logger()

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FULL_PAUSE = 5.0  # seconds more than after another fault: room is made by people, or by an alarm
INSIST_SECONDS = 0.2


class WorkerStops(Exception):
    """This worker shuts down: the item goes back as it was. It never leaves the process: no error of the tree."""


def execute(context: Context, item_id: str, worker: str, stopping: threading.Event) -> bool:
    """Claim, run and record one item; False when there was nothing to claim, as when a message came twice."""
    item = context.leases.claim(item_id, worker)
    if item is None:
        return False
    with structlog.contextvars.bound_contextvars(job_id=item.job_id, item=item.id, phase=item.phase, index=item.index):
        log.info("item_claimed", attempt=item.attempts, worker=worker)
        started = time.monotonic()
        outcome = _run(context, item, stopping)
        log.info("item_ended", outcome=outcome, seconds=round(time.monotonic() - started, 2))
    return True


def _run(context: Context, item: Item, stopping: threading.Event) -> str:
    try:
        with Hold(context, item, stopping) as hold:
            result = STAGES[item.phase].run(context, context.jobs.get(item.job_id), item, hold)
            answer = result.model_dump(mode="json")
            hold.insist(lambda: context.leases.complete(item, answer, hold.total))
        outcome = "done"
    except LeaseLost:
        outcome = "lost"
    except WorkerStops:
        outcome = _release(context, item)
    except UnderstudyError as error:
        outcome = _fail(context, item, error)
    except Exception as error:  # a defect, or the machine: recorded by type, logged whole, and tried again
        log.exception("defect")
        outcome = _fail(context, item, _full(error) or _defect(item, error), retryable=True)
    if outcome in ("done", "failed") or (outcome == "lost" and context.jobs.get(item.job_id).status in ENDED):
        # Never else: the item was paused, or waits for another attempt, or somebody works in that folder now.
        shutil.rmtree(context.settings.work / item.id, ignore_errors=True)
    return outcome


def _release(context: Context, item: Item) -> str:
    try:
        context.leases.release(item)
    except LeaseLost:
        return "lost"
    return "released"


def _fail(context: Context, item: Item, error: UnderstudyError, *, retryable: bool | None = None) -> str:
    base = context.settings.retry_after * 2 ** (item.attempts - 1)
    pause = (error.retry_after or 0) + base * random.uniform(0.5, 1.5)
    again = error.retryable if retryable is None else retryable
    log.warning("item_failed", code=error.code, message=error.message, attempt=item.attempts)
    try:
        retried = context.leases.fail(item, JobError.of(error), retryable=again, pause=pause)
    except LeaseLost:
        return "lost"
    return "retried" if retried else "failed"


def _full(error: Exception) -> UnderstudyError | None:
    """A disk without space, told as what it is: nothing is wrong with the work, and room can be made."""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        where = f" ({error.filename})" if error.filename else ""
        return Unavailable(f"no space is left{where}: free some, and the work is tried again", retry_after=FULL_PAUSE)
    return None


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
            except DBAPIError as error:
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
        except DBAPIError as error:
            log.warning("heartbeat_failed", item=self._item.id, error=str(error)[:300])
            if time.monotonic() - self._last > self._context.settings.lease_seconds:
                self._lost.set()  # by now somebody else may have it, and we cannot find out
