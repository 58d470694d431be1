"""A teacher over real HTTP that fails in each way that a service can: the annotations are as without it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stand.processes import Stand, wait
from stand.teacher import Fault, HttpTeacher, changed, cut_short, drip, hang, status

pytestmark = pytest.mark.e2e

PREFLIGHT = 4  # requests: 16 examples, 4 at a time


def not_a_number(body: dict[str, Any]) -> None:
    body["results"][0]["words"][0]["score"] = float("nan")


def one_less(body: dict[str, Any]) -> None:
    body["results"].pop()


def swapped(body: dict[str, Any]) -> None:
    body["results"][0], body["results"][1] = body["results"][1], body["results"][0]


def no_scores(body: dict[str, Any]) -> None:
    del body["results"][0]["words"]


FAULTS: dict[str, Fault] = {
    "500": status(500),
    "502 from a proxy": status(502, body=b"<html>Bad Gateway</html>"),
    "429": status(429, {"retry-after": "0"}, b"slow down"),
    "503": status(503, {"retry-after": "1"}),
    "hang": hang,
    "slow drip": drip,
    "truncated JSON": cut_short,
    "NaN": changed(not_a_number),
    "one result less": changed(one_less),
    "results swapped": changed(swapped),
    "a field is missing": changed(no_scores),
}


@pytest.fixture(scope="module")
def shared_stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A stand whose teacher has a second to answer."""
    one = Stand(tmp_path_factory.mktemp("teachers"), teacher_timeout=1.0, teacher_patience=20.0)
    yield one
    one.close()


@pytest.mark.parametrize("name", FAULTS)
def test_a_teacher_that_fails_now_and_then_changes_nothing(stand: Stand, rows: str, name: str) -> None:
    stand.teacher.hold(after=PREFLIGHT)
    job = stand.submit(rows)
    wait(lambda: stand.teacher.waiting)
    stand.teacher.faults.extend([FAULTS[name]] * 2)
    stand.teacher.release()
    stand.check_annotated(job, rows)
    assert not stand.teacher.faults
    assert {item.attempts for item in stand.context.flow.items(job.id, "annotate")} == {1}  # patience was enough


def test_a_teacher_that_restarts_in_the_middle_of_a_batch_is_asked_again(stand: Stand, rows: str) -> None:
    stand.teacher.hold(after=PREFLIGHT + 3)
    job = stand.submit(rows)
    wait(lambda: stand.teacher.waiting)
    stand.teacher.stop()
    stand.teacher.release()
    time.sleep(0.5)
    assert stand.get(job).phase == "annotate"
    stand.teacher.start()
    stand.check_annotated(job, rows)


def test_a_teacher_that_always_fails_ends_the_job_with_what_it_says(stand: Stand, rows: str) -> None:
    stand.teacher.hold(after=0)
    stand.teacher.faults.extend([status(400, body=b'{"error": {"message": "no such method", "param": "method"}}')] * 50)
    job = stand.submit(rows)
    stand.teacher.release()
    failed = stand.check(job, rows, "failed")
    assert failed.error is not None
    assert failed.error.message == "no such method"
    assert failed.error.param == "method.distillation.attribution.method"


def test_one_of_two_teachers_that_lies_costs_no_row(tmp_path: Path, rows: str, stand: Stand) -> None:
    liar = HttpTeacher()
    liar.faults.extend([changed(not_a_number)] * 1000)
    own = Stand(tmp_path, stand.broker, teacher_urls=(liar.url, stand.teacher.url))
    try:
        own.annotator()
        job = own.submit(rows)
        own.check_annotated(job, rows)
        assert liar.asked
    finally:
        own.close()
        liar.stop()
