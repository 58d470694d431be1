"""Which work items have a message under way: a bounded window for each queue, refilled from the table.

A message is noted before it is sent, so that a crash in between costs a delay and never an item. Knows no broker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sqlalchemy import and_, func, or_, select, update

from services.orchestrator.database import Database, jobs, work_items
from services.orchestrator.jobs import ACTIVE, Queue

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
        waits = and_(work_items.c.state == "pending", work_items.c.sent_at.is_(None), work_items.c.not_before <= now)
        active = work_items.c.job_id.in_(select(jobs.c.id).where(jobs.c.status.in_(ACTIVE)))
        under_way = or_(
            work_items.c.state == "running", and_(work_items.c.state == "pending", work_items.c.sent_at.is_not(None))
        )
        some = select(work_items.c.id).where(work_items.c.queue == queue, waits, active).limit(1)
        with self._database.read() as sql:  # most rounds find nothing, and a reader is in nobody's way
            if sql.scalar(some) is None:
                return []
        with self._database.write() as sql:
            used = sql.scalar(select(func.count()).where(work_items.c.queue == queue, under_way)) or 0
            next_ones = (
                select(work_items.c.id)
                .where(work_items.c.queue == queue, waits, active)
                .order_by(work_items.c.index, work_items.c.seq)
                .limit(max(0, self._window - used))
            )
            ids = list(sql.scalars(next_ones))
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
        old = work_items.c.sent_at < self._clock() - self._resend * work_items.c.sends
        lost = and_(work_items.c.state == "pending", old)
        with self._database.read() as sql:
            if sql.scalar(select(work_items.c.id).where(lost).limit(1)) is None:
                return 0
        with self._database.write() as sql:
            return int(sql.execute(update(work_items).where(lost).values(sent_at=None)).rowcount)
