"""Who works beside whom in one process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import update

from services.orchestrator.database import work_items
from services.orchestrator.jobs import JobError
from services.orchestrator.turns import Turns

ERROR = JobError(code="unavailable", message="the teacher does not answer")


def never() -> bool:
    return False


def test_turns_beside_others_are_taken_at_once() -> None:
    turns = Turns()
    with (
        turns.take(alone=False, patience=0, stop=never) as one,
        turns.take(alone=False, patience=0, stop=never) as other,
    ):
        assert one
        assert other


def test_a_turn_alone_waits_for_the_others_and_nobody_begins_before_or_beside_it() -> None:
    turns, entered, leave = Turns(), threading.Event(), threading.Event()

    def suspect() -> bool:
        with turns.take(alone=True, patience=60, stop=never) as mine:
            entered.set()
            leave.wait(60)
            return mine

    with ThreadPoolExecutor() as pool:
        with turns.take(alone=False, patience=0, stop=never):
            waiting = pool.submit(suspect)
            while turns.waiting == 0:
                pass
            with turns.take(alone=False, patience=0, stop=never) as late:
                assert not late
            assert not entered.is_set()
        assert entered.wait(60)
        with turns.take(alone=False, patience=0, stop=never) as beside:
            assert not beside
        with turns.take(alone=True, patience=0, stop=never) as second:
            assert not second
        leave.set()
        assert waiting.result()
    with turns.take(alone=False, patience=0, stop=never) as after:
        assert after


def test_who_is_told_to_stop_waits_no_longer() -> None:
    turns = Turns()
    with (
        turns.take(alone=True, patience=0, stop=never),
        turns.take(alone=False, patience=3600, stop=lambda: True) as other,
    ):
        assert not other


def test_an_item_whose_worker_was_lost_is_a_suspect_until_it_is_done_or_given_back(bench: Any) -> None:
    job = bench.submit_items(3)
    leases, ids = bench.context.leases, bench.item_ids(job)
    assert not any(map(leases.is_suspect, ids))
    lost, failed, released = (leases.claim(item_id, "a") for item_id in ids)
    assert not any(map(leases.is_suspect, ids))  # they run
    leases.release(released)
    leases.fail(failed, ERROR, retryable=True, pause=0)
    with bench.context.database.write() as sql:
        sql.execute(update(work_items).where(work_items.c.id == lost.id).values(lease_until=0.0))
    bench.context.flow.recover()
    assert [leases.is_suspect(item_id) for item_id in ids] == [True, False, False]
    leases.complete(leases.claim(lost.id, "b"), {}, 1)
    assert not leases.is_suspect(lost.id)
