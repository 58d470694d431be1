"""Redis that is killed, emptied or away, and two installations that share one."""

from __future__ import annotations

import threading
import time

import pytest
import redis
from stand.processes import Stand, wait

from understudy.errors import Unavailable

pytestmark = pytest.mark.e2e


def test_redis_that_is_killed_and_comes_back_costs_no_row(stand: Stand, rows: str) -> None:
    stand.teacher.hold(after=4 + 3)
    job = stand.submit(rows)
    wait(lambda: stand.teacher.waiting)
    stand.broker.stop()
    stand.teacher.release()
    stand.broker.start()
    stand.check_annotated(job, rows)


def test_redis_that_is_emptied_costs_no_row(stand: Stand, rows: str) -> None:
    stand.teacher.hold(after=4 + 3)
    job = stand.submit(rows)
    wait(lambda: stand.teacher.waiting)
    with redis.Redis(unix_socket_path=str(stand.broker.socket)) as client:
        client.flushall()
    stand.teacher.release()
    stand.check_annotated(job, rows)


def test_a_job_that_is_submitted_while_redis_is_away_waits_for_it(stand: Stand, rows: str) -> None:
    stand.broker.stop()
    tried, back = threading.Event(), threading.Event()

    def unanswered(*_: object) -> None:
        tried.set()
        back.wait()
        raise Unavailable("the broker does not answer")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stand.context, "send", unanswered)
        job = stand.submit(rows)  # would not return if it waited for the broker
        try:
            assert tried.wait(60)
            assert stand.get(job).status == "validating_files"
        finally:
            back.set()
    stand.broker.start()
    stand.check_annotated(job, rows)


def test_redis_that_dies_again_and_again_delays_a_job_and_loses_nothing(stand: Stand, rows: str) -> None:
    job = stand.submit(rows)
    for _ in range(4):
        stand.broker.stop()
        time.sleep(0.1)
        stand.broker.start()
        time.sleep(0.2)
    stand.check_annotated(job, rows)


def test_two_installations_that_share_a_redis_never_take_each_others_messages(
    tmp_path_factory: pytest.TempPathFactory, stand: Stand, rows: str
) -> None:
    other = Stand(tmp_path_factory.mktemp("other"), stand.broker)
    try:
        other.annotator()
        pairs = [(stand, stand.submit(rows)), (other, other.submit(rows))]
        for one, job in pairs:
            one.check_annotated(job, rows)
            for phase in ("validate", "preflight", "annotate"):
                items = one.context.flow.items(job.id, phase)
                assert {item.attempts for item in items} == {1}
        with redis.Redis(unix_socket_path=str(stand.broker.socket)) as client:
            prefixes = {key.split(b":")[0] for key in client.scan_iter()}
        assert prefixes == {f"understudy-{one.context.database.installation()}".encode() for one, _ in pairs}
    finally:
        other.close()
