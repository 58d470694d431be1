"""A budget that is spent ends annotation and training where they are, and the job goes on with what it has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from stand.server import Server

from services.orchestrator.budget import annotation_is_over, seconds_for_a_run, seconds_for_the_teacher
from services.orchestrator.jobs import Event
from services.orchestrator.settings import Settings
from understudy.errors import BudgetExhausted
from understudy.evaluation.report import Report
from understudy.testing import FakeTeacher


class SlowTeacher(FakeTeacher):
    """Each request takes ten seconds of a clock that a test moves."""

    def __init__(self, clock: Any) -> None:
        super().__init__()
        self.clock = clock

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/attributions":
            self.clock.now += 10
        return super().handle_request(request)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"teacher_max_examples": 4})


@pytest.fixture
def server(settings: Settings, bench: Any) -> Iterator[Server]:
    one = Server(settings, lambda item_id, queue: bench.sent.append((item_id, queue)))
    yield one
    one.stop()


def limited(bench: Any, **budget: float) -> Any:
    return bench.job(spec={"budget": budget}).with_facts(began_at=1000.0)


def test_without_a_budget_nothing_is_bounded(bench: Any) -> None:
    job = bench.job()
    assert not annotation_is_over(job, 1e12, 10**9)
    assert (seconds_for_the_teacher(job), seconds_for_a_run(job, 3)) == (None, None)


def test_a_teacher_gets_a_quarter_annotation_ends_at_half_and_the_students_share_the_rest(bench: Any) -> None:
    job = limited(bench, seconds=100)
    assert seconds_for_the_teacher(job) == 25
    assert not annotation_is_over(job, 1049.0, 10**9)
    assert annotation_is_over(job, 1050.0, 0)
    begins = job.model_copy(update={"phase_started_at": 1040.0})
    assert seconds_for_a_run(begins, 6) == 10
    late = job.model_copy(update={"phase_started_at": 1100.0})
    with pytest.raises(BudgetExhausted) as caught:
        seconds_for_a_run(late, 6)
    assert caught.value.param == "method.distillation.budget.seconds"


def test_teacher_tokens_bound_annotation_alone(bench: Any) -> None:
    job = limited(bench, teacher_tokens=50)
    assert [annotation_is_over(job, 1e9, tokens) for tokens in (49, 50)] == [False, True]
    assert seconds_for_a_run(job, 3) is None


def test_a_pause_is_none_of_a_jobs_time(settings: Settings, make_bench: Any, clock: Any) -> None:
    one = make_bench(settings.model_copy(update={"lease_seconds": 1e6}), FakeTeacher(), clock)
    job = one.submit(spec={"budget": {"seconds": 100}})

    def stand_still() -> None:
        one.context.flow.pause(job.id)
        clock.now += 500
        one.context.flow.resume(job.id)

    stand_still()  # before there was any work
    one.work(job, until="annotate")
    clock.now += 10
    stand_still()
    paused = one.context.jobs.get(job.id)
    assert paused.paused_seconds == 1000
    assert not annotation_is_over(paused, clock.now + 39, 0)
    assert annotation_is_over(paused, clock.now + 40, 0)
    one.context.close()


def test_annotation_ends_when_the_tokens_are_spent_and_training_goes_on_with_what_there_is(bench: Any) -> None:
    job = bench.work(bench.submit(spec={"budget": {"teacher_tokens": 150}, "recipe": "finetune"}), until="train")
    facts = job.facts
    assert (job.status, job.phase) == ("running", "train")
    assert 150 <= facts.teacher_tokens < 150 + 4 * 12  # one request more than the budget at most
    assert 10 <= facts.annotated < facts.rows.train
    assert job.train_rows == facts.annotated
    (cut,) = facts.cuts
    assert f"explained {facts.annotated} of {facts.rows.train} training rows" in cut
    assert "150 teacher tokens" in cut
    assert cut in bench.messages(job)
    results = bench.context.flow.results(job.id, "annotate")
    assert sum(one["rows"] for one in results) == facts.annotated
    assert any(one["shard"] is None for one in results)  # what had not begun was not asked for


def test_annotation_ends_when_its_part_of_the_seconds_is_spent(settings: Settings, make_bench: Any, clock: Any) -> None:
    one = make_bench(settings.model_copy(update={"lease_seconds": 1e6}), SlowTeacher(clock), clock)
    job = one.work(one.submit(spec={"budget": {"seconds": 200}, "recipe": "finetune"}), until="train")
    # The smoke gate asks four times, and six requests of four rows fit into the rest of the first hundred seconds.
    assert (job.facts.annotated, job.facts.teacher_tokens > 0) == (24, True)
    (item,) = one.context.flow.items(job.id, "train")
    assert item.payload["max_seconds"] == 100
    one.context.close()


def test_a_budget_that_buys_too_little_fails_the_job_by_its_field(bench: Any) -> None:
    job = bench.work(bench.submit(spec={"budget": {"teacher_tokens": 10}}))
    assert (job.status, job.error.code, job.error.param) == (
        "failed",
        "budget_exhausted",
        "method.distillation.budget",
    )
    assert "after 4 of" in job.error.message
    assert "at least 10" in job.error.message


@pytest.mark.slow
@pytest.mark.usefixtures("fork_server")
def test_training_ends_at_the_step_it_has_reached_and_the_report_says_so(server: Server, bench: Any, rows: Any) -> None:
    budget = {"budget": {"seconds": 6}, "hyperparameters": {"n_epochs": 100_000}, "seeds": [0, 1]}
    made = server.create(
        training_file=server.upload(rows(80)).json()["id"], method={"type": "supervised", "supervised": budget}
    ).json()
    bench.work(bench.context.jobs.get(made["id"]), seconds=100)
    path = f"/v1/fine_tuning/jobs/{made['id']}"
    job = server.http.get(path).json()
    assert (job["status"], job["error"]) == ("succeeded", None)
    report = Report.model_validate(server.http.get(f"{path}/report").json())
    (cut,) = bench.context.jobs.get(made["id"]).facts.cuts
    assert cut.startswith("2 of 2 trainings ended after their equal parts of the budget of 6 s")
    assert report.caveats[0] == cut
    (arm,) = report.arms
    steps = [seed.steps for seed in arm.seeds]
    assert all(1 <= one < 100_000 for one in steps)
    assert all(seed.seconds < 6 for seed in arm.seeds)
    assert job["trained_tokens"] > 50 * sum(steps)  # 16 rows of 8 tokens and more in each step
    events = [one["message"] for one in server.http.get(f"{path}/events", params={"limit": 100}).json()["data"]]
    assert cut in events
    assert json.dumps(job["spent"]["seconds_by_phase"]).count("train") == 1


def test_of_a_job_without_a_budget_tokens_are_counted_all_the_same(server: Server, bench: Any) -> None:
    job = bench.work(bench.submit(), until="train")
    bench.context.flow.end(job.id, "cancelled", Event(message="over"))
    shown = server.http.get(f"/v1/fine_tuning/jobs/{job.id}").json()
    assert shown["spent"]["teacher_tokens"] == job.facts.teacher_tokens >= 7 * job.facts.rows.train
    assert shown["trained_tokens"] is None


@pytest.mark.parametrize("budget", [{}, {"seconds": 0}, {"teacher_tokens": 0}, {"seconds": -1}, {"dollars": 5}])
def test_a_budget_that_is_none_is_refused(server: Server, rows: Any, budget: dict[str, Any]) -> None:
    method = {"type": "distillation", "distillation": {"teacher": {"model": "teacher"}, "budget": budget}}
    answer = server.create(training_file=server.upload(rows(20)).json()["id"], method=method)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("method.distillation.budget")
