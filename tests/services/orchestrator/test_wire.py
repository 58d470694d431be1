"""Progress as clients see it: every phase's bar, the time that is left, and honest zeros where nothing is known."""

from __future__ import annotations

from typing import Any

import pytest

from services.orchestrator.flow import Next
from services.orchestrator.jobs import NewItem, Status
from services.orchestrator.settings import Settings
from services.orchestrator.tally import Tally
from services.orchestrator.wire import job_object
from understudy.schemas import Progress
from understudy.testing import FakeTeacher

DONE = Tally(items=1, done=1, completed=1, total=1, sized=1)


def shown(bench: Any, tally: Tally | None, status: Status = "running", **job: Any) -> Any:
    """A job in the phase `train`, ten seconds after that began."""
    one = bench.job(phase="train", status=status, phase_started_at=1000.0, **job)
    tallies = {"validate": DONE, "preflight": DONE, "annotate": DONE} | ({"train": tally} if tally else {})
    return job_object(one, tallies, now=1010.0)


def test_the_time_left_follows_from_the_time_gone(bench: Any) -> None:
    job = shown(bench, Tally(items=4, done=1, completed=25, total=100, sized=4))
    assert (job.progress.phase, job.progress.percent, job.progress.eta_seconds) == ("train", 25.0, 30.0)


def test_a_pause_is_no_work_whichever_phase_it_was_in(
    settings: Settings, teacher: FakeTeacher, make_bench: Any, clock: Any
) -> None:
    bench = make_bench(settings.model_copy(update={"lease_seconds": 1e6}), teacher, clock)
    flow, leases = bench.context.flow, bench.context.leases
    job = bench.submit_items(1)

    def stand_still() -> None:
        flow.pause(job.id)
        clock.now += 1000
        flow.resume(job.id)

    stand_still()
    leases.complete(leases.claim(bench.item_ids(job)[0], "a"), {}, 1)
    flow.finish(job.id, "annotate", "train", lambda job, _: (job, Next("train", [NewItem(total=1)] * 4)))
    leases.complete(leases.claim(bench.item_ids(job, "train")[0], "a"), {}, 1)
    clock.now += 10
    stand_still()
    leases.claim(bench.item_ids(job, "train")[1], "a")
    assert job_object(
        bench.context.jobs.get(job.id), bench.context.tallies.of([job.id])[job.id], clock.now
    ).progress == (Progress(phase="train", completed=1, total=4, unit="steps", percent=25.0, eta_seconds=30.0))
    bench.context.close()


def test_items_that_do_not_know_their_size_yet_are_taken_to_be_like_the_others(bench: Any) -> None:
    job = shown(bench, Tally(items=6, done=1, completed=150, total=200, sized=2))
    assert (job.progress.completed, job.progress.total, job.progress.percent) == (150, 600, 25.0)


def test_a_phase_of_which_nothing_is_known_shows_zeros_and_no_time(bench: Any) -> None:
    job = shown(bench, Tally(items=3, done=0, completed=0, total=0, sized=0))
    assert (job.progress.total, job.progress.percent, job.progress.eta_seconds) == (0, 0.0, None)


def test_phases_are_done_running_or_pending_by_where_the_job_is(bench: Any) -> None:
    job = shown(bench, Tally(items=1, done=0, completed=0, total=0, sized=0))
    assert {one.phase: one.state for one in job.phases} == {
        "validate": "done",
        "preflight": "done",
        "annotate": "done",
        "train": "running",
        "evaluate": "pending",
        "publish": "pending",
    }
    assert all(one.percent == 100.0 for one in job.phases if one.state == "done")


@pytest.mark.parametrize("status", ["paused", "failed", "cancelled"])
def test_a_job_that_stands_says_so_at_its_phase(bench: Any, status: Status) -> None:
    job = shown(bench, Tally(items=1, done=0, completed=1, total=2, sized=1), status)
    train = next(one for one in job.phases if one.phase == "train")
    assert (train.state, train.percent, train.eta_seconds) == (status, 50.0, None)


def test_what_is_over_expectation_is_not_over_a_hundred_percent(bench: Any) -> None:
    job = shown(bench, Tally(items=1, done=0, completed=12, total=10, sized=1))
    assert (job.progress.percent, job.progress.eta_seconds) == (100.0, 0.0)
