"""What the orchestrator counts beside its requests: jobs and work, as the database has them whenever somebody asks.

Every API process gives the same numbers, so they are to be read from one of them, or with `max`. The broker's queues
would tell less: a message that a worker has taken is in none of them. Knows no route.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import case, func, select
from sqlalchemy.exc import SQLAlchemyError

from services.orchestrator.away import is_away
from services.orchestrator.database import Database, jobs, work_items
from services.orchestrator.jobs import ACTIVE, QUEUES

__all__ = ["WorkMetrics"]


class WorkMetrics(Collector):
    """A series is there for every queue, also for an empty one: who scales by it must not take none for unknown."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def describe(self) -> list[Metric]:
        return []  # the database is not asked when this is registered

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("understudy_database_up", "Whether the database answered this request")
        try:
            found = list(self._asked())
        except SQLAlchemyError as error:
            if not is_away(error):
                raise
            found = []
        up.add_metric([], float(bool(found)))
        yield from (up, *found)

    def _asked(self) -> Iterator[Metric]:
        active = work_items.c.job_id.in_(select(jobs.c.id).where(jobs.c.status.in_(ACTIVE)))
        late = (
            work_items.c.not_before > work_items.c.created_at
        )  # of items that were put off; 0 is of those that were not
        due = case((late, work_items.c.not_before), else_=work_items.c.created_at)
        open_items = (
            select(work_items.c.queue, work_items.c.state, func.count(), func.min(due))
            # By queue as well, which the index begins with: finished items are never looked at.
            .where(work_items.c.queue.in_(QUEUES), work_items.c.state.in_(("pending", "running")), active)
            .group_by(work_items.c.queue, work_items.c.state)
        )
        by_status = select(jobs.c.status, func.count()).where(jobs.c.status.in_(ACTIVE)).group_by(jobs.c.status)
        with self._database.read() as sql:
            rows = [tuple(row) for row in sql.execute(open_items)]
            statuses = {str(status): int(count) for status, count in sql.execute(by_status).tuples()}
        counts: Counter[tuple[str, str]] = Counter({(queue, state): count for queue, state, count, _ in rows})
        oldest = {queue: since for queue, state, _, since in rows if state == "pending"}

        items = GaugeMetricFamily(
            "understudy_work_items", "Work that waits or runs, of jobs that are not paused", labels=["queue", "state"]
        )
        whole = GaugeMetricFamily("understudy_work_open", "The sum of both: what workers are for", labels=["queue"])
        waits = GaugeMetricFamily(
            "understudy_work_wait_seconds", "For how long the oldest work that waits could have run", labels=["queue"]
        )
        for queue in QUEUES:
            for state in ("pending", "running"):
                items.add_metric([queue, state], counts[queue, state])
            whole.add_metric([queue], counts[queue, "pending"] + counts[queue, "running"])
            waits.add_metric([queue], max(0.0, self._clock() - oldest[queue]) if queue in oldest else 0.0)
        unfinished = GaugeMetricFamily(
            "understudy_jobs", "Jobs that have not ended and are not paused", labels=["status"]
        )
        for status in sorted(ACTIVE):
            unfinished.add_metric([status], statuses.get(status, 0))
        yield from (items, whole, waits, unfinished)
