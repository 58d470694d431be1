"""Which items have a message under way: a bounded window, refilled, and nothing lost with a message."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from services.orchestrator.dispatch import dispatch, follow_up, sweep
from services.orchestrator.jobs import JobError
from services.orchestrator.settings import Settings
from understudy.errors import Unavailable
from understudy.testing import FakeTeacher


@pytest.fixture
def bench(settings: Settings, teacher: FakeTeacher, database_url: str, make_bench: Any, clock: Any) -> Iterator[Any]:
    chosen = {"database_url": database_url, "lease_seconds": 10.0, "window": 4, "resend_seconds": 60.0}
    one = make_bench(settings.model_copy(update=chosen), teacher, clock)
    yield one
    one.context.close()


def sent(bench: Any) -> list[str]:
    found = [item_id for item_id, _ in bench.sent]
    bench.sent.clear()
    return found


def test_no_more_than_the_window_is_sent_and_it_is_refilled_as_items_end(bench: Any) -> None:
    job = bench.submit_items(10)
    ids = bench.item_ids(job)
    dispatch(bench.context)
    dispatch(bench.context)
    assert sent(bench) == ids[:4]
    item = bench.context.leases.claim(ids[0], "a")
    dispatch(bench.context)
    assert sent(bench) == []  # an item that runs still has its place
    bench.context.leases.complete(item, {}, 1)
    dispatch(bench.context)
    assert sent(bench) == [ids[4]]


def test_who_ends_an_item_may_go_on_with_the_next_which_nobody_else_is_sent(bench: Any) -> None:
    ids = bench.item_ids(bench.submit_items(10))
    dispatch(bench.context)
    assert sent(bench) == ids[:4]
    for item_id in ids[:2]:
        bench.context.leases.complete(bench.context.leases.claim(item_id, "a"), {}, 1)
    assert follow_up(bench.context, "annotate", keep=True) == ids[4]
    assert sent(bench) == [ids[5]], "the window has room for two"
    assert follow_up(bench.context, "annotate", keep=True) is None, "it is full"
    dispatch(bench.context)
    assert sent(bench) == []


def test_what_a_worker_kept_and_never_began_is_sent_to_another(bench: Any, clock: Any) -> None:
    (item_id,) = bench.item_ids(bench.submit_items(1))
    assert follow_up(bench.context, "annotate", keep=True) == item_id
    clock.now += 61
    sweep(bench.context)
    assert sent(bench) == [item_id]


def test_each_queue_has_a_window_of_its_own(bench: Any) -> None:
    first, second = bench.submit_items(5), bench.submit_items(5, phase="train", queue="train")
    dispatch(bench.context)
    by_queue = {queue: [i for i, q in bench.sent if q == queue] for queue in ("annotate", "train")}
    assert by_queue == {"annotate": bench.item_ids(first)[:4], "train": bench.item_ids(second, "train")[:4]}


def test_a_small_job_does_not_wait_behind_a_large_one(bench: Any) -> None:
    large, small = bench.submit_items(50), bench.submit_items(2)
    dispatch(bench.context)
    assert set(sent(bench)) == {*bench.item_ids(large)[:2], *bench.item_ids(small)}


def test_several_dispatchers_send_each_item_once(bench: Any) -> None:
    job = bench.submit_items(4)
    barrier = threading.Barrier(4)

    def one(_: int) -> None:
        barrier.wait()
        dispatch(bench.context)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(4)))
    assert sorted(sent(bench)) == sorted(bench.item_ids(job))


def test_while_the_broker_is_away_items_wait_and_are_sent_when_it_is_back(bench: Any) -> None:
    job = bench.submit_items(3)
    working = bench.context.send

    def away(_: str, __: Any) -> None:
        raise Unavailable("the broker does not answer")

    bench.context.send = away
    dispatch(bench.context)
    bench.context.send = working
    dispatch(bench.context)
    assert sent(bench) == bench.item_ids(job)


def test_a_broker_that_goes_away_halfway_costs_no_item(bench: Any) -> None:
    job = bench.submit_items(3)
    working = bench.context.send

    def once(item_id: str, queue: Any) -> None:
        if bench.sent:
            raise Unavailable("the broker does not answer")
        working(item_id, queue)

    bench.context.send = once
    dispatch(bench.context)
    bench.context.send = working
    dispatch(bench.context)
    assert sent(bench) == bench.item_ids(job)


def test_a_lost_message_is_sent_again_after_the_bound_and_ever_more_rarely(bench: Any, clock: Any) -> None:
    (item_id,) = bench.item_ids(bench.submit_items(1))
    gaps = []
    for _ in range(3):
        started = clock.now
        while item_id not in sent(bench):
            sweep(bench.context)
            clock.now += 10
        gaps.append(clock.now - started)
    assert gaps == [10, 70, 130]


def test_an_item_in_its_pause_is_not_sent_before_it_ends(bench: Any, clock: Any) -> None:
    (item_id,) = bench.item_ids(bench.submit_items(1))
    item = bench.context.leases.claim(item_id, "a")
    bench.context.leases.fail(item, JobError(code="x", message="x"), retryable=True, pause=30)
    dispatch(bench.context)
    assert sent(bench) == []
    clock.now += 31
    dispatch(bench.context)
    assert sent(bench) == [item_id]


def test_a_paused_job_sends_nothing_until_it_is_resumed(bench: Any) -> None:
    job = bench.submit_items(2)
    dispatch(bench.context)
    assert sent(bench) == bench.item_ids(job)
    bench.context.flow.pause(job.id)
    dispatch(bench.context)
    assert sent(bench) == []
    bench.context.jobs.update(job.id, "queued")
    dispatch(bench.context)
    assert sent(bench) == bench.item_ids(job)


def test_a_sweep_sends_again_what_a_silent_worker_held(bench: Any, clock: Any) -> None:
    (item_id,) = bench.item_ids(bench.submit_items(1))
    sweep(bench.context)
    bench.context.leases.claim(item_id, "a")
    clock.now += 11
    bench.sent.clear()
    sweep(bench.context)
    assert sent(bench) == [item_id]
