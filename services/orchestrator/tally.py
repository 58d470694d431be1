"""How far each phase of some jobs is, counted in the table of work items. Knows nothing of units or of the wire."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import case, func, select

from services.orchestrator.database import Database, work_items
from services.orchestrator.jobs import Phase

__all__ = ["Tallies", "Tally"]


@dataclass(frozen=True)
class Tally:
    """The items of one phase. `sized` counts those that know how much they have to do.

    `seconds` are those that workers spent on the ones that are done.
    """

    items: int
    done: int
    completed: int
    total: int
    sized: int
    seconds: float = 0.0

    @property
    def expected(self) -> int:
        """The phase's whole amount: items that do not know theirs yet are taken to be like the others."""
        return round(self.total * self.items / self.sized) if self.sized else 0


class Tallies:
    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, job_ids: Sequence[str]) -> Mapping[str, Mapping[Phase, Tally]]:
        """By job and phase; phases that have not begun are absent."""
        done = func.sum(case((work_items.c.state == "done", 1), else_=0))
        sized = func.sum(case((work_items.c.total > 0, 1), else_=0))
        took = work_items.c.finished_at - work_items.c.started_at
        seconds = func.sum(case((work_items.c.state == "done", took), else_=0.0))
        query = (
            select(
                work_items.c.job_id,
                work_items.c.phase,
                func.count().label("items"),
                done.label("done"),
                func.sum(work_items.c.completed).label("completed"),
                func.sum(work_items.c.total).label("total"),
                sized.label("sized"),
                seconds.label("seconds"),
            )
            .where(work_items.c.job_id.in_(job_ids))
            .group_by(work_items.c.job_id, work_items.c.phase)
        )
        found: dict[str, dict[Phase, Tally]] = defaultdict(dict)
        with self._database.read() as sql:
            for row in sql.execute(query):
                found[row.job_id][row.phase] = Tally(
                    items=int(row.items),
                    done=int(row.done),
                    completed=int(row.completed),
                    total=int(row.total),
                    sized=int(row.sized),
                    seconds=float(row.seconds or 0.0),
                )
        return found
