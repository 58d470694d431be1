"""What /metrics says of work: what waits and what runs, from the database, and nothing that is not there to be done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import TimeoutError as NoConnection
from stand.server import Server

from services.orchestrator.jobs import Event
from services.orchestrator.metrics import WorkMetrics
from services.orchestrator.settings import Settings
from understudy.testing import FakeTeacher


@pytest.fixture
def bench(settings: Settings, teacher: FakeTeacher, database_url: str, make_bench: Any, clock: Any) -> Iterator[Any]:
    one = make_bench(settings.model_copy(update={"database_url": database_url}), teacher, clock)
    yield one
    one.context.close()


@pytest.fixture
def measured(bench: Any) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(WorkMetrics(bench.context.database, bench.context.clock))
    return registry


def test_work_that_runs_counts_beside_work_that_waits(bench: Any, measured: CollectorRegistry) -> None:
    ids = bench.item_ids(bench.submit_items(3))
    bench.context.leases.claim(ids[0], "a")

    def items(state: str) -> float | None:
        return measured.get_sample_value("understudy_work_items", {"queue": "annotate", "state": state})

    assert (items("pending"), items("running")) == (2, 1)
    assert measured.get_sample_value("understudy_work_open", {"queue": "annotate"}) == 3
    assert measured.get_sample_value("understudy_work_open", {"queue": "train"}) == 0
    assert measured.get_sample_value("understudy_database_up") == 1
    assert (
        sum(one.value for family in measured.collect() for one in family.samples if one.name == "understudy_jobs") == 1
    )


def test_work_of_a_job_that_has_ended_or_pauses_is_nobodys(bench: Any, measured: CollectorRegistry) -> None:
    over, paused = bench.submit_items(2), bench.submit_items(2)
    bench.context.flow.end(over.id, "cancelled", Event(message="over"))
    bench.context.flow.pause(paused.id)
    assert measured.get_sample_value("understudy_work_open", {"queue": "annotate"}) == 0


def test_the_age_of_waiting_work_grows_with_time(bench: Any, measured: CollectorRegistry, clock: Any) -> None:
    bench.submit_items(1)
    clock.now += 90
    assert measured.get_sample_value("understudy_work_wait_seconds", {"queue": "annotate"}) == pytest.approx(90)


def test_a_database_that_is_away_leaves_the_other_numbers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(settings)
    try:
        there = server.http.get("/metrics").text
        assert "understudy_database_up 1.0" in there
        assert 'understudy_work_open{queue="train"} 0.0' in there

        def away(*_: Any) -> None:
            raise NoConnection("every connection is in use")

        monkeypatch.setattr(WorkMetrics, "_asked", away)
        answer = server.http.get("/metrics")
        assert answer.status_code == 200
        assert "understudy_database_up 0.0" in answer.text
        assert "understudy_work_open" not in answer.text
        assert "understudy_http_requests_open" in answer.text
    finally:
        server.stop()
