"""The clock of every worker set back by ten minutes in mid-shard: a living worker goes on, a dead one is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from stand.processes import ROOT, Stand, wait

from services.orchestrator.database import work_items
from services.orchestrator.dispatch import Sweeper
from services.orchestrator.jobs import Job

pytestmark = pytest.mark.e2e

PREFLIGHT = 4  # requests: 16 examples, 4 at a time
BACK = -600.0


class Clock:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.set(0.0)

    def set(self, seconds: float) -> None:
        aside = self.file.with_suffix(".aside")
        aside.write_text(f"{seconds}")
        aside.replace(self.file)


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the processes that a stand starts from here on."""
    one = Clock(tmp_path / "clock")
    monkeypatch.setenv("UNDERSTUDY_TEST_CLOCK", str(one.file))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "stand" / "skewed"))
    return one


@pytest.fixture
def skewed(clock: Clock, stand: Stand) -> Iterator[Stand]:
    """The stand with workers on that clock; nobody else sweeps, for nobody else has it."""
    stand.kill(stand.annotator())
    stand.sweeper.stop()
    stand.annotator()
    yield stand
    clock.set(0.0)
    stand.kill(stand.annotator())
    stand.sweeper = Sweeper(stand.context)
    stand.sweeper.start()


def leases(stand: Stand, job: Job) -> list[float]:
    """Until when the items that run are held."""
    query = select(work_items.c.lease_until).where(work_items.c.job_id == job.id, work_items.c.state == "running")
    with stand.context.database.read() as sql:
        return list(sql.scalars(query))


def test_workers_whose_clock_is_set_back_ten_minutes_go_on_with_what_they_hold(
    skewed: Stand, clock: Clock, rows: str
) -> None:
    skewed.teacher.hold(after=PREFLIGHT + 1)
    job = skewed.submit(rows)
    wait(lambda: skewed.teacher.waiting)
    before = leases(skewed, job)
    clock.set(BACK)
    wait(lambda: max(leases(skewed, job)) < min(before) + BACK / 2)  # they have renewed them
    skewed.teacher.release()
    skewed.check_annotated(job, rows)
    assert {item.attempts for item in skewed.context.flow.items(job.id, "annotate")} == {1}


def test_a_worker_that_died_before_the_clock_was_set_back_is_found_all_the_same(
    skewed: Stand, clock: Clock, rows: str
) -> None:
    skewed.teacher.hold(after=PREFLIGHT + 1)
    job = skewed.submit(rows)
    wait(lambda: skewed.teacher.waiting)
    skewed.kill(skewed.annotator())
    clock.set(BACK)
    skewed.teacher.release()
    skewed.annotator()
    skewed.check_annotated(job, rows)  # within a minute: far less than the ten that the leases lie ahead
    assert max(item.attempts for item in skewed.context.flow.items(job.id, "annotate")) == 2
