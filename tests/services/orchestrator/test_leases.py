"""Work items under several workers at once, on a real database: claimed once, kept by heartbeats, lost for good."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.orchestrator.database import Database
from services.orchestrator.jobs import Facts, JobError, Rows
from services.orchestrator.leases import LONGEST_PAUSE, Leases
from services.orchestrator.settings import Settings
from understudy.errors import LeaseLost
from understudy.testing import FakeTeacher

ERROR = JobError(code="unavailable", message="the teacher does not answer")


@pytest.fixture
def bench(settings: Settings, teacher: FakeTeacher, database_url: str, clock: Any, make_bench: Any) -> Iterator[Any]:
    one = make_bench(settings.model_copy(update={"database_url": database_url, "lease_seconds": 10.0}), teacher, clock)
    yield one
    one.context.close()


def test_many_threads_claim_each_item_exactly_once(bench: Any) -> None:
    job = bench.submit_items(40)
    ids = bench.item_ids(job)
    barrier = threading.Barrier(6)

    def work(worker: int) -> list[str]:
        barrier.wait()
        return [item_id for item_id in ids if bench.context.leases.claim(item_id, f"worker-{worker}")]

    with ThreadPoolExecutor(6) as pool:
        claimed = Counter(item_id for found in pool.map(work, range(6)) for item_id in found)
    assert claimed == Counter(ids)


def _claim_all(url: str, ids: list[str], start: Any, won: Any) -> None:
    database = Database(url)
    leases = Leases(database, 10.0)
    start.wait()
    for item_id in ids:
        if leases.claim(item_id, "process"):
            won.put(item_id)
    database.close()


def test_many_processes_claim_each_item_exactly_once(tmp_path: Path, settings: Settings, make_bench: Any) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    bench = make_bench(settings.model_copy(update={"database_url": url}), FakeTeacher())
    ids = bench.item_ids(bench.submit_items(20))
    bench.context.close()
    spawn = multiprocessing.get_context("fork")
    start, won = spawn.Event(), spawn.Queue()
    processes = [spawn.Process(target=_claim_all, args=(url, ids, start, won)) for _ in range(3)]
    for process in processes:
        process.start()
    start.set()
    claimed = Counter(won.get(timeout=30) for _ in ids)
    for process in processes:
        process.join()
    assert claimed == Counter(ids)
    assert won.empty()


def test_a_held_item_cannot_be_claimed(bench: Any) -> None:
    (item_id,) = bench.item_ids(bench.submit_items(1))
    assert bench.context.leases.claim(item_id, "a").worker == "a"
    assert bench.context.leases.claim(item_id, "b") is None


def test_an_expired_lease_lets_another_worker_in_with_a_higher_token(bench: Any, clock: Any) -> None:
    (item_id,) = bench.item_ids(bench.submit_items(1))
    first = bench.context.leases.claim(item_id, "a")
    clock.now += 11
    second = bench.context.leases.claim(item_id, "b")
    assert (second.worker, second.token, second.attempts) == ("b", first.token + 1, 2)


def test_a_heartbeat_keeps_the_lease_and_shows_progress(bench: Any, clock: Any) -> None:
    job = bench.submit_items(1)
    item = bench.context.leases.claim(bench.item_ids(job)[0], "a")
    for _ in range(5):
        clock.now += 9
        bench.context.leases.heartbeat(item, 3, 7)
    assert bench.context.leases.claim(item.id, "b") is None
    (kept,) = bench.context.flow.items(job.id, "annotate")
    assert (kept.completed, kept.total) == (3, 7)


@pytest.mark.parametrize("write", ["heartbeat", "complete", "fail", "release"])
def test_a_stale_token_is_refused_whatever_it_writes(bench: Any, clock: Any, write: str) -> None:
    job = bench.submit_items(1)
    leases = bench.context.leases
    stale = leases.claim(bench.item_ids(job)[0], "a")
    clock.now += 11
    leases.claim(stale.id, "b")
    with pytest.raises(LeaseLost):
        {
            "heartbeat": lambda: leases.heartbeat(stale, 1, 1),
            "complete": lambda: leases.complete(stale, {"by": "a"}, 1),
            "fail": lambda: leases.fail(stale, ERROR, retryable=False, pause=0),
            "release": lambda: leases.release(stale),
        }[write]()
    (item,) = bench.context.flow.items(job.id, "annotate")
    assert (item.worker, item.state, item.result) == ("b", "running", None)
    assert bench.context.jobs.get(job.id).status == "running"


def test_an_answer_counts_once(bench: Any) -> None:
    job = bench.submit_items(1)
    item = bench.context.leases.claim(bench.item_ids(job)[0], "a")
    bench.context.leases.complete(item, {"n": 1}, 1)
    with pytest.raises(LeaseLost):
        bench.context.leases.complete(item, {"n": 2}, 1)
    assert bench.context.flow.results(job.id, "annotate") == [{"n": 1}]
    assert bench.context.leases.claim(item.id, "b") is None


def test_a_retryable_failure_waits_its_pause_and_is_tried_again(bench: Any, clock: Any) -> None:
    job = bench.submit_items(1)
    leases = bench.context.leases
    item = leases.claim(bench.item_ids(job)[0], "a")
    assert leases.fail(item, ERROR, retryable=True, pause=5.0)
    assert leases.claim(item.id, "b") is None
    clock.now += 6
    assert leases.claim(item.id, "b").attempts == 2
    assert bench.context.jobs.get(job.id).status == "running"


def test_the_last_attempt_fails_the_job_and_stops_its_other_items(bench: Any) -> None:
    job = bench.submit_items(3)
    leases = bench.context.leases
    first, second, third = bench.item_ids(job)
    running = leases.claim(second, "b")
    for _ in range(3):
        item = leases.claim(first, "a")
        again = leases.fail(item, ERROR, retryable=True, pause=0)
    assert not again
    failed = bench.context.jobs.get(job.id)
    assert (failed.status, failed.error, failed.finished_at) == ("failed", ERROR, 1_000_000)
    with pytest.raises(LeaseLost):
        leases.heartbeat(running, 0, 0)
    assert leases.claim(third, "c") is None


def test_an_item_that_had_all_its_attempts_is_not_to_be_had_even_with_its_lease_expired(bench: Any, clock: Any) -> None:
    (item_id,) = bench.item_ids(bench.submit_items(1))
    for _ in range(3):
        assert bench.context.leases.claim(item_id, "a")
        clock.now += 11
    assert bench.context.leases.claim(item_id, "b") is None


def test_an_error_that_no_attempt_can_mend_fails_at_once(bench: Any) -> None:
    job = bench.submit_items(1)
    item = bench.context.leases.claim(bench.item_ids(job)[0], "a")
    assert not bench.context.leases.fail(item, ERROR, retryable=False, pause=0)
    assert bench.context.jobs.get(job.id).status == "failed"


def test_a_released_item_is_at_once_another_workers_and_cost_no_attempt(bench: Any) -> None:
    job = bench.submit_items(1)
    item = bench.context.leases.claim(bench.item_ids(job)[0], "a")
    bench.context.leases.release(item)
    assert bench.context.leases.claim(item.id, "b").attempts == 1


@pytest.mark.parametrize("status", ["paused", "cancelled", "succeeded", "failed"])
def test_items_of_a_job_that_is_not_active_are_not_to_be_had(bench: Any, status: Any) -> None:
    job = bench.submit_items(1, status=status)
    assert bench.context.leases.claim(bench.item_ids(job)[0], "a") is None


def test_a_job_runs_from_its_first_claim(bench: Any) -> None:
    job = bench.submit_items(1)
    assert bench.context.jobs.get(job.id).status == "queued"
    bench.context.leases.claim(bench.item_ids(job)[0], "a")
    assert bench.context.jobs.get(job.id).status == "running"


SKIP = {"on_failed_shard": "skip", "max_failed_share": 0.25}


def shards(bench: Any, count: int, **spec: Any) -> tuple[Any, list[str]]:
    """A job of so many rows that are annotated one by one."""
    facts = Facts(rows=Rows(train=count, validation=0, test=0, rejected=0))
    job = bench.submit_items(count, facts=facts, spec=spec)
    return job, bench.item_ids(job)


def use_up(bench: Any, item_id: str) -> None:
    for _ in range(3):
        again = bench.context.leases.fail(bench.context.leases.claim(item_id, "a"), ERROR, retryable=True, pause=0)
    assert not again


def test_an_item_that_no_attempt_got_over_is_set_aside_where_its_job_says_so(bench: Any) -> None:
    job, ids = shards(bench, 8, **SKIP)
    running = bench.context.leases.claim(ids[1], "b")
    use_up(bench, ids[0])
    assert bench.context.jobs.get(job.id).status == "running"
    bench.context.leases.heartbeat(running, 0, 1)  # the others go on
    item = bench.context.flow.items(job.id, "annotate")[0]
    assert (item.state, item.error, item.result["set_aside"]) == ("done", ERROR, True)
    assert "annotate 1 is set aside, with 1 rows" in bench.messages(job)
    assert bench.context.leases.claim(ids[0], "c") is None


def test_a_job_fails_where_more_than_its_share_would_be_set_aside(bench: Any) -> None:
    job, ids = shards(bench, 8, **SKIP)
    for item_id in ids[:2]:
        use_up(bench, item_id)
    assert bench.context.jobs.get(job.id).status == "running"
    use_up(bench, ids[2])
    failed = bench.context.jobs.get(job.id)
    assert failed.status == "failed"
    assert failed.error.code == ERROR.code
    assert "more than 25.0% of the rows" in failed.error.message


def test_an_error_that_no_attempt_can_mend_is_never_set_aside(bench: Any) -> None:
    job, ids = shards(bench, 8, **SKIP)
    bench.context.leases.fail(bench.context.leases.claim(ids[0], "a"), ERROR, retryable=False, pause=0)
    assert bench.context.jobs.get(job.id).status == "failed"


def test_an_item_that_kills_its_worker_every_time_is_set_aside_where_its_job_says_so(bench: Any, clock: Any) -> None:
    job, ids = shards(bench, 4, **SKIP)
    for _ in range(3):
        assert bench.context.leases.claim(ids[0], "a")
        clock.now += 11
        bench.context.flow.recover()
        clock.now += LONGEST_PAUSE
    assert bench.context.jobs.get(job.id).status == "running"
    assert bench.context.flow.items(job.id, "annotate")[0].error.code == "worker_lost"
