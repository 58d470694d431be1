"""The table of moves, over every pair of states, in the record and in the store."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest

from services.orchestrator.jobs import ACTIVE, ENDED, MOVES, Job, Status
from services.orchestrator.pipeline import first_items
from understudy.errors import Conflict

STATES: tuple[Status, ...] = get_args(Status)
LEGAL = {
    ("validating_files", "queued"),
    ("validating_files", "paused"),
    ("validating_files", "failed"),
    ("validating_files", "cancelled"),
    ("queued", "running"),
    ("queued", "paused"),
    ("queued", "failed"),
    ("queued", "cancelled"),
    ("running", "succeeded"),
    ("running", "paused"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("paused", "queued"),
    ("paused", "cancelled"),
}


@pytest.mark.parametrize(("old", "new"), list(product(STATES, STATES)))
def test_a_job_moves_only_as_the_table_says(bench: Any, old: Status, new: Status) -> None:
    job: Job = bench.submit_items(1, status=old)
    if (old, new) in LEGAL:
        assert job.to(new).status == new
        assert bench.context.jobs.update(job.id, new).status == new
        assert bench.context.jobs.get(job.id).status == new
        return
    with pytest.raises(Conflict, match=f"is {old} and cannot become {new}"):
        job.to(new)
    with pytest.raises(Conflict, match=f"is {old} and cannot become {new}"):
        bench.context.jobs.update(job.id, new)
    assert bench.context.jobs.get(job.id).status == old


def test_every_state_is_in_the_table_and_ends_or_goes_on() -> None:
    assert set(MOVES) == set(STATES)
    assert {"succeeded", "failed", "cancelled"} == ENDED
    assert not ACTIVE & ENDED


def test_a_job_does_not_change_in_place(bench: Any) -> None:
    job = bench.job()
    assert job.to("queued") is not job
    assert job.status == "validating_files"
    with pytest.raises(ValueError, match="frozen"):
        job.status = "queued"


def test_the_alias_is_the_one_asked_for_with_the_suffix(bench: Any) -> None:
    assert bench.job().alias == "production"
    assert bench.job(suffix="v2").alias == "production-v2"
    assert bench.job(spec={"alias": "docs"}, suffix="v2").alias == "docs-v2"


def test_a_job_survives_the_store_unchanged(bench: Any) -> None:
    job = bench.job(metadata={"team": "ä"}, suffix="x", spec={"seeds": [0, 3], "recipe": ["finetune"]})
    bench.context.flow.submit(job, first_items(job, bench.context.settings))
    assert bench.context.jobs.get(job.id) == job
