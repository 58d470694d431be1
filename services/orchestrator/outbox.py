"""Which work items have a message under way: a bounded window for each queue, refilled from the table.

A message is noted before it is sent, so that a crash in between costs a delay and never an item. Knows no broker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, and_, func, literal_column, select, update

from services.orchestrator.database import Database, jobs, work_items
from services.orchestrator.jobs import ACTIVE, QUEUES, Queue

__all__ = ["Outbox"]


class Outbox:
    def __init__(
        self, database: Database, window: int, resend_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._window = window
        self._resend = resend_seconds
        self._clock = clock

    def take(self, queue: Queue) -> list[str]:
        """The ids of items to send a message for now, noted as sent.

        Jobs take turns: item 5 of a small job goes before item 6 of a large one that came first.
        """
        now = self._clock()
        pending = work_items.c.state == literal_column("'pending'")  # no parameter: a partial index is for this alone
        due = work_items.c.not_before + 0.0 <= now  # a sum: SQLite would take another index for it, and sort all
        waits = and_(pending, work_items.c.sent_at.is_(None), due)
        active = work_items.c.job_id.in_(select(jobs.c.id).where(jobs.c.status.in_(ACTIVE)))
        waiting = (
            select(work_items.c.id)
            .where(work_items.c.queue == queue, waits, active)
            .order_by(work_items.c.index, work_items.c.seq)
        )
        with self._database.read() as sql:  # most rounds find nothing, and a reader is in nobody's way
            if sql.scalar(waiting.limit(1)) is None:
                return []
        with self._database.write() as sql:
            ids = list(sql.scalars(waiting.limit(max(0, self._window - _under_way(sql, queue)))))
            if not ids:
                return []
            noted = update(work_items).where(work_items.c.id.in_(ids), work_items.c.sent_at.is_(None))
            taken = sql.scalars(noted.values(sent_at=now, sends=work_items.c.sends + 1).returning(work_items.c.id))
            kept = set(taken)
        return [item_id for item_id in ids if item_id in kept]

    def put_back(self, item_ids: Sequence[str]) -> None:
        """Note that these messages could not be sent after all."""
        with self._database.write() as sql:
            sql.execute(update(work_items).where(work_items.c.id.in_(item_ids)).values(sent_at=None))

    def forget_lost(self) -> int:
        """Take messages that are older than the bound for lost; the bound grows with each time that was done.

        A message that only waits behind long work is not lost: a growing bound keeps the copies few.
        """
        now = self._clock()
        old = work_items.c.sent_at < now - self._resend * work_items.c.sends
        # The bound of the first time is what an index can find.
        found = and_(work_items.c.queue.in_(QUEUES), work_items.c.sent_at < now - self._resend)
        lost = and_(work_items.c.state == "pending", found, old)
        with self._database.read() as sql:
            if sql.scalar(select(work_items.c.id).where(lost).limit(1)) is None:
                return 0
        with self._database.write() as sql:
            return int(sql.execute(update(work_items).where(lost).values(sent_at=None)).rowcount)


def _under_way(sql: Connection, queue: Queue) -> int:
    """Items of the queue that are worked on, and those with a message; counted apart, as an index can."""
    count = select(func.count()).select_from(work_items).where(work_items.c.queue == queue)
    running = count.where(work_items.c.state == "running")
    sent = count.where(work_items.c.state == "pending", work_items.c.sent_at >= 0)
    return int(sql.scalar(select(running.scalar_subquery() + sent.scalar_subquery())) or 0)
