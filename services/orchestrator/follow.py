"""A job's story as server-sent events: what has happened since, what happens from here on, and the end.

A stream reads the store a page at a time and only when its client has taken what came before, so that a slow client
costs a waiting task and a client that left nothing. Between two looks it holds neither a thread nor a connection.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import anyio
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from services.orchestrator.away import is_away
from services.orchestrator.context import Context
from services.orchestrator.jobs import ENDED
from services.orchestrator.store import StoredEvent
from services.orchestrator.wire import JobObject, event_object, job_object
from understudy.errors import Overloaded
from understudy.schemas import Progress

__all__ = ["Followers"]

POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0  # below the idle timeouts of the usual proxies
RECONNECT_MS = 2000
CHECK_SECONDS = 3.0  # how long a stream may outlive its caller's key
PAGE = 100  # events that one stream holds in memory
MOST_STREAMS = 256


class _Moment(Progress):
    """How far the job is; sent when it has changed, and not kept: it has no id."""

    status: str


@dataclass(frozen=True)
class _Look:
    job: JobObject
    events: list[StoredEvent]


class Followers:
    """The streams of one process, of which there is a bounded number."""

    def __init__(self, context: Context, stopping: Callable[[], bool]) -> None:
        self.open = 0
        self._context = context
        self._stopping = stopping

    def follow(
        self, job_id: str, after: str | None, still: Callable[[], bool] = lambda: True
    ) -> AsyncIterator[bytes] | None:
        """The stream behind the event `after`; None where that was the last one. A service that drains ends it, and
        so does `still`, which says whether the caller may go on.

        Raises NotFound for the job, InvalidRequest for `after`, Overloaded when too many streams are open.
        """
        job = self._context.jobs.get(job_id)
        if after == job_id and job.status in ENDED:
            return None
        seen = self._context.jobs.place(job_id, after) if after else 0
        if self.open >= MOST_STREAMS:
            raise Overloaded(f"{MOST_STREAMS} streams are open already: poll the job instead", retry_after=30)
        return self._stream(job_id, seen, still)

    async def _stream(self, job_id: str, seen: int, still: Callable[[], bool]) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            yield format_sse_event(retry=RECONNECT_MS)
            said, spoke = "", time.monotonic()
            checked = spoke
            while not self._stopping():
                try:
                    if time.monotonic() - checked > CHECK_SECONDS:
                        if not await run_in_threadpool(still):
                            return
                        checked = time.monotonic()
                    look = await run_in_threadpool(self._look, job_id, seen)
                except SQLAlchemyError as error:
                    if not is_away(error):
                        raise
                    yield KEEPALIVE_COMMENT  # the stream outlives a database that is away for a while
                    await anyio.sleep(POLL_SECONDS)
                    continue
                for stored in look.events:
                    yield _message(event_object(stored), id=stored.id)
                    seen = stored.seq
                moment = _moment(look.job)
                if (now := moment.model_dump_json(exclude={"eta_seconds"})) != said:
                    yield _message(moment, event="progress")
                    said = now
                elif not look.events:
                    if look.job.status in ENDED:
                        yield _message(look.job, event="done", id=job_id)
                        return
                    if time.monotonic() - spoke > HEARTBEAT_SECONDS:
                        yield KEEPALIVE_COMMENT
                    else:
                        await anyio.sleep(POLL_SECONDS)
                        continue
                spoke = time.monotonic()
        finally:
            self.open -= 1

    def _look(self, job_id: str, seen: int) -> _Look:
        """The job first: where it has ended, all its events are there by now."""
        job = self._context.jobs.get(job_id)
        tallies = self._context.tallies.of([job_id]).get(job_id, {})
        return _Look(job_object(job, tallies), self._context.jobs.story(job_id, seen, PAGE))


def _moment(job: JobObject) -> _Moment:
    return _Moment(status=job.status, **job.progress.model_dump())


def _message(data: BaseModel, *, id: str | None = None, event: str | None = None) -> bytes:
    return format_sse_event(data_str=data.model_dump_json(), id=id, event=event)
