"""All jobs as server-sent events: each as it is, and again whenever it has changed. For lists that stay fresh.

`follow` tells the whole story of one job; here only the newest state of each counts, and nothing is resumed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

import anyio
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from services.orchestrator.away import is_away
from services.orchestrator.context import Context
from services.orchestrator.follow import CHECK_SECONDS, HEARTBEAT_SECONDS, RECONNECT_MS
from services.orchestrator.wire import JobObject, job_object
from understudy.errors import Overloaded

__all__ = ["Watchers"]

POLL_SECONDS = 1.0
NEWEST = 20
MOST_STREAMS = 64


class Watchers:
    """The streams of one process, of which there is a bounded number."""

    def __init__(self, context: Context, stopping: Callable[[], bool]) -> None:
        self.open = 0
        self._context = context
        self._stopping = stopping

    def jobs(self) -> list[JobObject]:
        """The newest jobs and all that have not ended, the oldest first."""
        newest, _ = self._context.jobs.page(None, NEWEST)
        known = {job.id for job in newest}
        older = [job for job in self._context.jobs.unfinished() if job.id not in known]
        tallies = self._context.tallies.of([job.id for job in (*older, *newest)])
        return [job_object(job, tallies.get(job.id, {})) for job in (*older, *reversed(newest))]

    def watch(self, still: Callable[[], bool]) -> AsyncIterator[bytes]:
        """`jobs` at first, and each again whenever it has changed.

        Ends when the service drains, or `still` says that the caller may not go on. Raises Overloaded when too many
        streams are open.
        """
        if self.open >= MOST_STREAMS:
            raise Overloaded(f"{MOST_STREAMS} streams are open already: ask for the jobs instead", retry_after=30)
        return self._stream(still)

    async def _stream(self, still: Callable[[], bool]) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            yield format_sse_event(retry=RECONNECT_MS)
            said: dict[str, str] = {}
            spoke = checked = time.monotonic()
            while not self._stopping():
                jobs: list[JobObject] = []
                try:
                    if time.monotonic() - checked > CHECK_SECONDS:
                        if not await run_in_threadpool(still):
                            return
                        checked = time.monotonic()
                    jobs = await run_in_threadpool(self.jobs)
                except SQLAlchemyError as error:
                    if not is_away(error):
                        raise
                for job in jobs:
                    if (now := _state(job)) != said.get(job.id):
                        said[job.id], spoke = now, time.monotonic()
                        yield format_sse_event(data_str=job.model_dump_json(), event="job")
                if time.monotonic() - spoke > HEARTBEAT_SECONDS:
                    yield KEEPALIVE_COMMENT
                    spoke = time.monotonic()
                await anyio.sleep(POLL_SECONDS)
        finally:
            self.open -= 1


def _state(job: JobObject) -> str:
    """What makes a job another one; how long it will take is not part of it, which changes with every look."""
    phases = [(one.phase, one.state, one.completed, one.total) for one in job.phases]
    return repr((job.status, phases, job.fine_tuned_model, len(job.set_aside)))
