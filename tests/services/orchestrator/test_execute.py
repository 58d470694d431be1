"""One item from claim to answer: how each way of ending is recorded, and that the lease is held meanwhile."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from services.orchestrator.dispatch import tidy_store
from services.orchestrator.execute import execute
from services.orchestrator.jobs import Event
from services.orchestrator.settings import Settings
from understudy.errors import InvalidRequest, Overloaded
from understudy.testing import FakeTeacher


class Watched(FakeTeacher):
    """Calls `then` at each request for work, before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.then: Callable[[], None] = lambda: None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.then()
        return super().handle_request(request)


@pytest.fixture
def teacher() -> Watched:
    return Watched()


@pytest.fixture
def stopping() -> threading.Event:
    return threading.Event()


@pytest.fixture
def shard(bench: Any, stopping: threading.Event) -> Callable[[], Any]:
    """Execute the first shard of a fresh job and return its item as it is then."""
    job = bench.work(bench.submit(), until="annotate")
    item_id = bench.item_ids(job)[0]

    def run() -> Any:
        assert execute(bench.context, item_id, "worker-1", stopping)
        return bench.context.flow.items(job.id, "annotate")[0]

    return run


def test_an_item_that_is_done_keeps_its_result_and_leaves_no_folder(bench: Any, shard: Any) -> None:
    item = shard()
    assert (item.state, item.completed, item.total) == ("done", 16, 16)
    assert item.result["rows"] == 16
    assert not (bench.context.settings.work / item.id).exists()
    assert not execute(bench.context, item.id, "worker-2", threading.Event())


def test_the_lease_is_held_however_long_the_work_takes(
    settings: Settings, make_bench: Any, teacher: Watched, stopping: threading.Event
) -> None:
    bench = make_bench(settings.model_copy(update={"lease_seconds": 0.2}), teacher)
    job = bench.work(bench.submit(), until="annotate")
    item_id = bench.item_ids(job)[0]
    intruders = []

    def wait_and_intrude() -> None:
        time.sleep(0.5)
        intruders.append(bench.context.leases.claim(item_id, "intruder"))

    teacher.then = wait_and_intrude
    assert execute(bench.context, item_id, "worker-1", stopping)
    assert intruders == [None]
    assert bench.context.flow.items(job.id, "annotate")[0].state == "done"
    bench.context.close()


def test_progress_is_in_the_table_while_the_work_runs(
    settings: Settings, make_bench: Any, teacher: Watched, stopping: threading.Event
) -> None:
    bench = make_bench(settings.model_copy(update={"teacher_max_examples": 8}), teacher)
    job = bench.work(bench.submit(), until="annotate")
    seen = []

    def look() -> None:
        time.sleep(0.2)
        seen.append(bench.context.flow.items(job.id, "annotate")[0].completed)

    teacher.then = look
    execute(bench.context, bench.item_ids(job)[0], "worker-1", stopping)
    assert seen == [0, 8]
    bench.context.close()


def test_a_worker_that_shuts_down_gives_the_item_back_and_it_was_no_attempt(
    shard: Any, teacher: Watched, stopping: threading.Event
) -> None:
    teacher.then = stopping.set
    item = shard()
    assert (item.state, item.attempts) == ("pending", 0)


def test_cancelling_stops_the_work_and_its_answer_is_refused(bench: Any, shard: Any, teacher: Watched) -> None:
    def cancel() -> None:
        (job,), _ = bench.context.jobs.page(None, 1)
        bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))

    teacher.then = cancel
    item = shard()
    assert (item.state, item.result) == ("failed", None)


def test_a_worker_that_waits_for_a_busy_teacher_learns_of_the_cancellation_meanwhile(
    settings: Settings, make_bench: Any, teacher: Watched, stopping: threading.Event
) -> None:
    bench = make_bench(settings.model_copy(update={"teacher_patience": 60.0}), teacher)
    job = bench.work(bench.submit(), until="annotate")
    teacher.fail_next(*[Overloaded("full", retry_after=30)] * 100)

    def cancel() -> None:
        teacher.then = lambda: None
        bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))

    teacher.then = cancel
    started = time.monotonic()
    execute(bench.context, bench.item_ids(job)[0], "worker-1", stopping)
    assert time.monotonic() - started < 10
    bench.context.close()


def test_pausing_keeps_the_works_folder_for_the_one_who_goes_on(bench: Any, shard: Any, teacher: Watched) -> None:
    (job,), _ = bench.context.jobs.page(None, 1)
    folder = bench.context.settings.work / bench.item_ids(job)[0]
    folder.mkdir(parents=True)
    teacher.then = lambda: bench.context.flow.pause(job.id) and None
    item = shard()
    assert (item.state, item.attempts) == ("pending", 0)
    assert folder.is_dir()


def test_a_defect_is_named_by_its_type_and_tried_again(bench: Any, shard: Any, teacher: Watched) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a defect")

    teacher.then = fail
    item = shard()
    assert (item.state, item.attempts, item.error.code) == ("pending", 1, "internal_error")
    shard()
    assert shard().state == "failed"
    (job,), _ = bench.context.jobs.page(None, 1)
    assert job.status == "failed"
    assert "phase annotate: ZeroDivisionError: a defect" in job.error.message


def test_an_error_that_cannot_be_mended_fails_the_job_at_once(bench: Any, shard: Any, teacher: FakeTeacher) -> None:
    teacher.fail_next(InvalidRequest("examples[0].input is wrong", param="examples[0].input"))
    assert shard().state == "failed"
    (job,), _ = bench.context.jobs.page(None, 1)
    assert (job.status, job.error.param) == ("failed", "examples[0].input")


def test_a_database_that_goes_away_in_mid_work_costs_no_attempt(
    bench: Any, shard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: Any) -> None:
        raise OperationalError("INSERT", {}, busy)

    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
    monkeypatch.setattr(bench.context.rationales, "keep", locked)
    item = shard()
    assert (item.state, item.attempts, item.error) == ("pending", 0, None)
    monkeypatch.undo()
    assert shard().state == "done"


def test_what_a_killed_worker_had_half_written_is_removed_when_its_item_has_ended(bench: Any, shard: Any) -> None:
    item, store = shard(), bench.context.artifacts
    left = Path(store.root) / f"shard-{'0' * 24}.{item.id}.{'1' * 32}.part"
    others = [left.with_name(left.name.replace(item.id, "item-of-another-installation")), left.with_name("x.1.part")]
    for folder in (left, *others):
        folder.mkdir()
    assert store.half_written()[item.id] == [left]
    tidy_store(bench.context)
    assert left.is_dir()  # whoever wrote it may be alive for as long as a lease
    bench.context.flow._clock = lambda: time.time() + 2 * bench.context.settings.lease_seconds
    tidy_store(bench.context)
    assert not left.exists()
    assert all(folder.is_dir() for folder in others)
