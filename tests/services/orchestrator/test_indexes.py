"""What every sweep asks is found by an index, on both databases: its cost must not grow with the items there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event, text, update

from services.orchestrator.database import Database, jobs, work_items
from services.orchestrator.flow import Flow, Next
from services.orchestrator.jobs import Job, NewItem
from services.orchestrator.leases import Leases
from services.orchestrator.outbox import Outbox
from services.orchestrator.tally import Tallies
from understudy.schemas import DistillationSpec, TeacherSpec

OLD, ITEMS, DONE = 20, 4000, 2000
NOW = 1_000_000.0
WHOLE = "SCAN work_items|Seq Scan on work_items"


def clock() -> float:
    return NOW


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Many small jobs that have ended, and a large one: half of its items are done, others wait, and a few run."""
    one = Database(database_url)
    flow = Flow(one, 3, clock)
    for number in range(OLD):
        flow.submit(job(f"ftjob-old-{number}"), Next("annotate", [NewItem(total=1)] * 5))
        with one.write() as sql:
            sql.execute(update(jobs).values(status="succeeded"))
    flow.submit(job("ftjob-1"), Next("annotate", [NewItem(total=1)] * ITEMS))
    mine = work_items.c.job_id == "ftjob-1"
    with one.write() as sql:
        done = {"state": "done", "started_at": NOW, "finished_at": NOW, "sent_at": NOW, "sends": 1}
        sql.execute(update(work_items).where(~mine | (work_items.c.index < DONE)).values(done))
        runs = mine & (work_items.c.index >= DONE) & (work_items.c.index < DONE + 4)
        sql.execute(update(work_items).where(runs).values(state="running", lease_until=NOW + 30, sent_at=NOW))
    with one.write() as sql:
        if sql.dialect.name == "postgresql":  # it does so by itself; nobody does on SQLite
            sql.execute(text("ANALYZE"))
    yield one
    one.close()


def job(job_id: str) -> Job:
    return Job(
        id=job_id,
        status="running",
        phase="annotate",
        created_at=1,
        phase_started_at=1.0,
        model="scratch:bert-1x16",
        training_file="file-none",
        spec=DistillationSpec(teacher=TeacherSpec(model="teacher")),
    )


def ways(database: Database, ask: Any) -> dict[str, str]:
    """How the database finds the answers to the statements about items that are sent meanwhile."""
    sent: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if "work_items" in statement and not statement.startswith("INSERT"):
            sent.append((statement, parameters))

    event.listen(database._engine, "before_cursor_execute", note)
    ask()
    event.remove(database._engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN " if database.dialect == "sqlite" else "EXPLAIN "
    found = {}
    for statement, parameters in sent:
        with database.read() as sql:
            found[statement] = "\n".join(
                str(tuple(row)) for row in sql.exec_driver_sql(explain + statement, parameters)
            )
    return found


LOOKS: dict[str, Callable[[Database], Any]] = {
    "recover": lambda one: Flow(one, 3, clock).recover(),
    "finishable": lambda one: Flow(one, 3, clock).finishable(),
    "forget_lost": lambda one: Outbox(one, 8, 60.0, clock).forget_lost(),
    "take": lambda one: Outbox(one, 8, 60.0, clock).take("annotate"),
    "take nothing": lambda one: Outbox(one, 8, 60.0, clock).take("control"),
    "is_suspect": lambda one: Leases(one, 30.0, clock).is_suspect("item-1"),
}


def test_no_look_for_work_reads_or_sorts_all_that_there_is(database: Database) -> None:
    for look, ask in LOOKS.items():
        found = ways(database, lambda ask=ask: ask(database))
        assert found, look
        for statement, way in found.items():
            assert not re.search(WHOLE, way), f"{look}: {statement}\n{way}"
            if not statement.startswith("SELECT jobs"):
                assert not re.search("TEMP B-TREE|Sort", way), f"{look}: {statement}\n{way}"
    with database.read() as sql:
        taken = sql.scalars(
            text('SELECT "index" FROM work_items WHERE state = \'pending\' AND sent_at IS NOT NULL ORDER BY "index"')
        )
        assert list(taken) == list(range(DONE + 4, DONE + 8)), "they are not taken in order"


def test_a_tally_reads_the_items_of_its_job_alone(database: Database) -> None:
    tally = Tallies(database)
    found = ways(database, lambda: tally.of(["ftjob-2"]))
    for statement, way in found.items():
        assert not re.search(WHOLE, way), f"{statement}\n{way}"
    assert (tally.of(["ftjob-1"])["ftjob-1"]["annotate"].done, tally.of(["ftjob-2"])) == (DONE, {})
