"""Keeps the pipeline moving: recovers lost items, moves finished phases on, and sends messages for what waits.

Everything here may run in any process, at any time and in several at once; what it does is decided by the store.
"""

from __future__ import annotations

import shutil
import threading
import time

import structlog
from sqlalchemy.exc import SQLAlchemyError

from services.orchestrator.away import is_away
from services.orchestrator.context import Context
from services.orchestrator.jobs import QUEUES, Event, JobError, Phase, Queue
from services.orchestrator.pipeline import finish
from understudy.errors import InternalError, Unavailable

__all__ = ["Sweeper", "dispatch", "follow_up", "sweep", "tidy_store"]

log = structlog.get_logger()

TIDY_AT_ONCE = 500


def sweep(context: Context) -> None:
    """One round of all of it."""
    for item in context.flow.recover():
        context.metrics.recovered(item)
        log.warning("item_recovered", job_id=item.job_id, item=item.id, phase=item.phase, worker=item.worker)
    if lost := context.outbox.forget_lost():
        log.warning("messages_lost", count=lost)
    _finish_phases(context)
    dispatch(context)
    _tidy(context)


def follow_up(context: Context, queue: Queue, *, keep: bool = False) -> str | None:
    """What the end of an item of this queue may have made possible; the rest can wait for the next sweep.

    With `keep` no message is sent for the next item of the queue: its id is returned, for the caller to work on.
    """
    if _finish_phases(context):
        dispatch(context)
        return None
    return _fill(context, queue, keep=keep)


def tidy_store(context: Context) -> None:
    """Remove what items that have ended had half-written in the store when their workers were killed."""
    aside = context.artifacts.half_written()
    for item_id in context.flow.ended(list(aside)[:TIDY_AT_ONCE]):
        for folder in aside[item_id]:
            shutil.rmtree(folder, ignore_errors=True)


def _tidy(context: Context) -> None:
    """Remove the folders of items that have ended without a worker that could: it was killed, or the job cancelled."""
    if not context.settings.work.is_dir():
        return
    folders = {path.name: path for path in context.settings.work.iterdir()}
    for item_id in context.flow.ended(list(folders)[:TIDY_AT_ONCE]):
        shutil.rmtree(folders[item_id], ignore_errors=True)


def _finish_phases(context: Context) -> int:
    """Move the jobs on whose phase has nothing left to do, and return how many there were."""
    ready = context.flow.finishable()
    for job_id, phase in ready:
        _finish(context, job_id, phase)
    return len(ready)


def _finish(context: Context, job_id: str, phase: Phase) -> None:
    """Move a job on; a defect that shows up there fails this job, or it would stand in the way of all others."""
    try:
        finish(context, job_id, phase)
    except SQLAlchemyError:
        raise  # the next round tries again
    except Unavailable as error:  # so it does here, and the job's story says once what is in the way
        log.warning("phase_not_finished", job_id=job_id, phase=phase, error=error.message)
        newest, _ = context.jobs.events(job_id, None, 1)
        if not newest or newest[0].event.message != error.message:
            context.jobs.add_event(job_id, Event(level="warn", message=error.message))
    except Exception as error:
        log.exception("defect", job_id=job_id, phase=phase)
        message = f"an unexpected error after phase {phase}: {type(error).__name__}: {error}"
        fault = JobError.of(InternalError(message))
        context.flow.end(job_id, "failed", Event(level="error", message=message), fault)


def dispatch(context: Context) -> None:
    """Fill each queue's window. While the broker is away the items wait in the table."""
    for queue in QUEUES:
        _fill(context, queue)


def _fill(context: Context, queue: Queue, *, keep: bool = False) -> str | None:
    """Send what a queue's window has room for, and return the first of it where the caller keeps that."""
    item_ids = context.outbox.take(queue)
    kept = item_ids.pop(0) if keep and item_ids else None
    for sent, item_id in enumerate(item_ids):
        try:
            context.send(item_id, queue)
        except Unavailable as error:
            context.metrics.message(queue, "broker_away")
            log.warning("broker_unavailable", queue=queue, waiting=len(item_ids) - sent, error=error.message)
            context.outbox.put_back(item_ids[sent:])
            break
        context.metrics.message(queue, "sent")
    return kept


class Sweeper:
    """Sweeps in a thread of its own, at intervals and whenever it is woken."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._wake = threading.Event()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There is something new: do not wait for the interval. Returns at once."""
        self._wake.set()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stop = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        tidied = 0.0
        while not self._stop:
            self._wake.clear()
            try:
                sweep(self._context)
                if time.monotonic() - tidied > self._context.settings.lease_seconds:  # listing a large store is slow
                    tidy_store(self._context)
                    tidied = time.monotonic()
                self._context.metrics.swept("done")
            except Exception as error:  # the next round finds all as it was
                if is_away(error):
                    self._context.metrics.swept("database_away")
                    log.warning("sweep_failed", error=str(error)[:300])
                else:
                    self._context.metrics.swept("failed")
                    log.exception("sweep_failed")
            self._wake.wait(self._context.settings.sweep_seconds)
