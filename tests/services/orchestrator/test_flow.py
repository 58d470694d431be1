"""A job's way through its phases: finished once, by one of many; cancelled, paused and recovered as a whole."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select, update

from services.orchestrator.database import work_items
from services.orchestrator.dispatch import sweep
from services.orchestrator.flow import Next
from services.orchestrator.jobs import Event, Item, Job, JobError, NewItem
from services.orchestrator.leases import LONGEST_PAUSE
from services.orchestrator.settings import Settings
from understudy.errors import Conflict, LeaseLost, StageFailed
from understudy.testing import FakeTeacher


@pytest.fixture
def bench(settings: Settings, teacher: FakeTeacher, database_url: str, make_bench: Any, clock: Any) -> Iterator[Any]:
    one = make_bench(settings.model_copy(update={"database_url": database_url, "lease_seconds": 10.0}), teacher, clock)
    yield one
    one.context.close()


def to_train(job: Job, results: list[Mapping[str, Any]]) -> tuple[Job, Next]:
    return job.with_facts(fingerprint=str(results)), Next("train", [NewItem(payload={"arm": 1}), NewItem()])


def finish_all(bench: Any, job: Job) -> None:
    for number, item_id in enumerate(bench.item_ids(job)):
        item = bench.context.leases.claim(item_id, "a")
        bench.context.leases.complete(item, {"n": number}, 1)


def test_a_phase_that_is_behind_the_job_cannot_be_finished_again(bench: Any) -> None:
    job = bench.submit_items(1)
    finish_all(bench, job)
    bench.context.flow.finish(job.id, "annotate", "train", lambda job, _: (job, None))
    assert bench.context.flow.finish(job.id, "annotate", "train", to_train) is None
    assert bench.context.flow.items(job.id, "train") == []


def test_a_phase_with_an_unfinished_item_is_not_finished(bench: Any) -> None:
    job = bench.submit_items(2)
    item = bench.context.leases.claim(bench.item_ids(job)[0], "a")
    bench.context.leases.complete(item, {}, 1)
    assert bench.context.flow.finishable() == []
    assert bench.context.flow.finish(job.id, "annotate", "train", to_train) is None


def test_of_many_that_finish_a_phase_one_wins_and_inserts_the_next_items_once(bench: Any) -> None:
    job = bench.submit_items(3)
    finish_all(bench, job)
    assert bench.context.flow.finishable() == [(job.id, "annotate")]
    barrier = threading.Barrier(6)

    def finish(_: int) -> Job | None:
        barrier.wait()
        return bench.context.flow.finish(job.id, "annotate", "train", to_train)

    with ThreadPoolExecutor(6) as pool:
        winners = [found for found in pool.map(finish, range(6)) if found]
    assert len(winners) == 1
    assert winners[0].facts.fingerprint == "[{'n': 0}, {'n': 1}, {'n': 2}]"
    assert bench.context.jobs.get(job.id) == winners[0]
    assert [item.payload for item in bench.context.flow.items(job.id, "train")] == [{"arm": 1}, {}]
    assert bench.context.flow.finishable() == []


def test_of_many_that_begin_another_round_of_a_phase_one_wins(bench: Any) -> None:
    job = bench.submit_items(2)
    finish_all(bench, job)
    since = bench.context.jobs.get(job.id).phase_started_at
    barrier = threading.Barrier(6)

    def once_more(job: Job, _: list[Mapping[str, Any]]) -> tuple[Job, Next]:
        return job.model_copy(update={"phase": "annotate"}), Next("annotate", [NewItem(payload={"round": 2})])

    def finish(_: int) -> Job | None:
        barrier.wait()
        return bench.context.flow.finish(job.id, "annotate", "train", once_more, since=since)

    with ThreadPoolExecutor(6) as pool:
        winners = [found for found in pool.map(finish, range(6)) if found]
    assert len(winners) == 1
    assert bench.context.jobs.get(job.id).phase == "annotate"
    items = bench.context.flow.items(job.id, "annotate")
    assert [(item.index, item.payload, item.state) for item in items] == [
        (0, {}, "done"),
        (1, {}, "done"),
        (2, {"round": 2}, "pending"),
    ]
    bench.context.leases.complete(bench.context.leases.claim(items[2].id, "a"), {"n": 2}, 1)
    assert bench.context.flow.finish(job.id, "annotate", "train", to_train, since=since) is None  # that round is over
    moved = bench.context.flow.finish(job.id, "annotate", "train", to_train, since=winners[0].phase_started_at)
    assert (moved.phase, moved.facts.fingerprint) == ("train", "[{'n': 0}, {'n': 1}, {'n': 2}]")


def test_workers_that_finish_the_last_two_items_at_once_do_not_leave_the_phase_open(bench: Any) -> None:
    for _ in range(10):
        job = bench.submit_items(2)
        barrier = threading.Barrier(2)

        def work(item_id: str, job: Job = job, barrier: threading.Barrier = barrier) -> bool:
            item = bench.context.leases.claim(item_id, "a")
            barrier.wait()
            bench.context.leases.complete(item, {}, 1)
            return bench.context.flow.finish(job.id, "annotate", "train", to_train) is not None

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(work, bench.item_ids(job))) == [False, True]


def test_an_error_of_the_next_phases_plan_fails_the_job_by_name(bench: Any) -> None:
    job = bench.submit_items(1)
    finish_all(bench, job)

    def refuse(_: Job, __: list[Mapping[str, Any]]) -> tuple[Job, None]:
        raise StageFailed("no plan", param="model")

    failed = bench.context.flow.finish(job.id, "annotate", "train", refuse)
    assert (failed.status, failed.error.code, failed.error.param) == ("failed", "stage_failed", "model")
    assert bench.context.jobs.get(job.id).status == "failed"


def test_a_defect_in_one_jobs_results_fails_that_job_and_holds_up_no_other(bench: Any) -> None:
    broken, sound = bench.submit_items(1), bench.submit_items(1)
    item = bench.context.leases.claim(bench.item_ids(broken)[0], "a")
    bench.context.leases.complete(item, {"shard": None}, 1)
    sweep(bench.context)
    failed = bench.context.jobs.get(broken.id)
    assert (failed.status, failed.error.code) == ("failed", "internal_error")
    assert "after phase annotate: ValidationError" in failed.error.message
    assert bench.sent[-1] == (bench.item_ids(sound)[0], "annotate")


def test_cancelling_takes_the_items_from_their_workers(bench: Any) -> None:
    job = bench.submit_items(2)
    running = bench.context.leases.claim(bench.item_ids(job)[0], "a")
    cancelled = bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))
    assert (cancelled.status, cancelled.finished_at) == ("cancelled", int(bench.context.clock()))
    with pytest.raises(LeaseLost):
        bench.context.leases.complete(running, {}, 1)
    assert {item.state for item in bench.context.flow.items(job.id, "annotate")} == {"failed"}
    with pytest.raises(Conflict, match="it has ended"):
        bench.context.flow.end(job.id, "cancelled", Event(message="again"))


def test_pausing_gives_back_what_runs_without_costing_an_attempt_and_keeps_what_is_done(bench: Any) -> None:
    job = bench.submit_items(2)
    first, second = bench.item_ids(job)
    bench.context.leases.complete(bench.context.leases.claim(first, "a"), {"n": 1}, 1)
    running = bench.context.leases.claim(second, "a")
    bench.context.flow.pause(job.id)
    with pytest.raises(LeaseLost):
        bench.context.leases.heartbeat(running, 0, 0)
    assert bench.context.leases.claim(second, "b") is None
    bench.context.jobs.update(job.id, "queued")
    assert bench.context.leases.claim(second, "b").attempts == 1
    assert bench.context.flow.results(job.id, "annotate")[0] == {"n": 1}


@contextmanager
def held_after(bench: Any, statement: str) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Stop the first thread that has executed such a statement, before it commits: `reached` says so, `go` ends it."""
    reached, go, engine = threading.Event(), threading.Event(), bench.context.database._engine

    def hold(_: Any, __: Any, said: str, *___: Any) -> None:
        if re.match(statement, said) and not reached.is_set():
            reached.set()
            go.wait(10)

    event.listen(engine, "after_cursor_execute", hold)
    yield reached, go
    event.remove(engine, "after_cursor_execute", hold)


def test_a_claim_that_is_not_committed_when_its_job_is_paused_is_taken_back(bench: Any) -> None:
    job = bench.submit_items(1)
    (item_id,) = bench.item_ids(job)
    with held_after(bench, "UPDATE work_items SET state") as (reached, go), ThreadPoolExecutor(2) as pool:
        claim = pool.submit(bench.context.leases.claim, item_id, "a")
        assert reached.wait(10)
        pause = pool.submit(bench.context.flow.pause, job.id)
        wait([pause], timeout=0.5)
        go.set()
        item = claim.result()
        assert pause.result().status == "paused"
    (left,) = bench.context.flow.items(job.id, "annotate")
    assert (left.state, left.attempts, left.worker) == ("pending", 0, None)
    with pytest.raises(LeaseLost):
        bench.context.leases.heartbeat(item, 0, 0)


def test_a_claim_that_comes_before_a_pause_is_committed_gets_nothing(bench: Any) -> None:
    job = bench.submit_items(1)
    (item_id,) = bench.item_ids(job)
    with held_after(bench, "UPDATE work_items SET not_before") as (reached, go), ThreadPoolExecutor(2) as pool:
        pause = pool.submit(bench.context.flow.pause, job.id)
        assert reached.wait(10)
        claim = pool.submit(bench.context.leases.claim, item_id, "a")
        wait([claim], timeout=0.5)
        go.set()
        assert pause.result().status == "paused"
        assert claim.result() is None
    assert bench.context.flow.items(job.id, "annotate")[0].state == "pending"


def paused_while_it_runs(bench: Any, attempts: int) -> tuple[Job, Item]:
    """As an earlier version could leave it: the job is paused, and one of its items is worked on."""
    job = bench.submit_items(1)
    item = bench.context.leases.claim(bench.item_ids(job)[0], "a").model_copy(update={"attempts": attempts})
    with bench.context.database.write() as sql:
        sql.execute(update(work_items).values(attempts=attempts))
    bench.context.jobs.update(job.id, "paused")
    return job, item


@pytest.mark.parametrize("retryable", [True, False])
def test_what_fails_in_a_paused_job_is_done_again_when_it_goes_on(bench: Any, clock: Any, retryable: bool) -> None:
    job, item = paused_while_it_runs(bench, attempts=3)
    with pytest.raises(LeaseLost, match="is paused"):
        bench.context.leases.fail(item, JobError(code="model_error", message="no"), retryable=retryable, pause=0)
    assert bench.context.jobs.get(job.id).status == "paused"
    clock.now += 11
    assert [lost.id for lost in bench.context.flow.recover()] == [item.id]
    bench.context.flow.resume(job.id)
    clock.now += LONGEST_PAUSE
    assert bench.context.leases.claim(item.id, "b").attempts == 3


def test_an_item_that_waits_with_all_its_attempts_used_can_be_had_when_its_job_goes_on(bench: Any) -> None:
    job, item = paused_while_it_runs(bench, attempts=3)
    with bench.context.database.write() as sql:
        sql.execute(update(work_items).values(state="pending", lease_until=None))
    bench.context.flow.resume(job.id)
    assert bench.context.leases.claim(item.id, "b").attempts == 3


def test_a_paused_job_does_not_move_on(bench: Any) -> None:
    job = bench.submit_items(1)
    finish_all(bench, job)
    bench.context.flow.pause(job.id)
    assert bench.context.flow.finishable() == []
    assert bench.context.flow.finish(job.id, "annotate", "train", to_train) is None


def test_an_item_of_a_silent_worker_is_taken_back_and_its_token_raised(bench: Any, clock: Any) -> None:
    job = bench.submit_items(1)
    item = bench.context.leases.claim(bench.item_ids(job)[0], "a")
    assert bench.context.flow.recover() == []
    clock.now += 11
    assert [lost.id for lost in bench.context.flow.recover()] == [item.id]
    with pytest.raises(LeaseLost):
        bench.context.leases.heartbeat(item, 0, 0)
    assert bench.context.leases.claim(item.id, "b").token == item.token + 1
    assert "worker a has not been heard of" in bench.messages(job)[-1]


def test_an_item_that_kills_its_worker_every_time_fails_the_job(bench: Any, clock: Any) -> None:
    job = bench.submit_items(2)
    item_id = bench.item_ids(job)[0]
    for _ in range(3):
        assert bench.context.leases.claim(item_id, "a")
        clock.now += 11
        bench.context.flow.recover()
        clock.now += LONGEST_PAUSE
    failed = bench.context.jobs.get(job.id)
    assert (failed.status, failed.error.code) == ("failed", "worker_lost")
    assert {item.state for item in bench.context.flow.items(job.id, "annotate")} == {"failed"}
    assert bench.context.leases.claim(item_id, "b") is None


def test_items_that_a_dying_worker_takes_with_it_again_and_again_part_ways(bench: Any, clock: Any) -> None:
    job = bench.submit_items(6)
    ids = bench.item_ids(job)
    for turn in range(2):
        assert all(bench.context.leases.claim(one, "a") for one in ids)
        clock.now += 11
        bench.context.flow.recover()
        waits = _column(bench, work_items.c.not_before)
        assert (len(set(waits)) > 1) == (turn == 1)


def _column(bench: Any, column: Any) -> list[Any]:
    with bench.context.database.read() as sql:
        return list(sql.scalars(select(column)))


def test_a_clock_that_is_set_back_delays_the_recovery_of_an_item_by_no_more_than_its_lease(
    bench: Any, clock: Any
) -> None:
    job = bench.submit_items(1)
    (item_id,) = bench.item_ids(job)
    bench.context.leases.claim(item_id, "dead")
    clock.now -= 600
    assert bench.context.flow.recover() == []  # it may live
    clock.now += 11
    assert [item.id for item in bench.context.flow.recover()] == [item_id]
    assert bench.context.leases.claim(item_id, "b")


def test_a_worker_that_lives_keeps_its_item_when_the_clock_is_set_back(bench: Any, clock: Any) -> None:
    job = bench.submit_items(1)
    item = bench.context.leases.claim(bench.item_ids(job)[0], "a")
    clock.now -= 600
    for _ in range(4):
        bench.context.flow.recover()
        bench.context.leases.heartbeat(item, 0, 1)
        clock.now += 6
    assert bench.context.flow.recover() == []
    bench.context.leases.complete(item, {}, 1)


def test_pauses_and_messages_of_a_future_that_will_not_come_are_forgotten(bench: Any, clock: Any) -> None:
    job = bench.submit_items(1)
    (item_id,) = bench.item_ids(job)
    assert bench.context.outbox.take("annotate") == [item_id]
    item = bench.context.leases.claim(item_id, "a")
    bench.context.leases.fail(item, JobError(code="unavailable", message="no"), retryable=True, pause=10_000.0)
    clock.now -= 600
    bench.context.flow.recover()
    assert bench.context.outbox.take("annotate") == [item_id]
    clock.now -= 600
    bench.context.flow.recover()
    clock.now += 200
    assert bench.context.outbox.forget_lost() == 1  # which was sent "in ten minutes"
