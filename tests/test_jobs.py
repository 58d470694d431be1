"""A job watched over HTTP, as a client without a stack of its own sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from understudy import jobs
from understudy.client import OrchestratorClient
from understudy.errors import InvalidRequest, StageFailed, Unavailable
from understudy.jobs import (
    cancelled_by_interrupt,
    distillation_job,
    dry_run_lines,
    model_reference,
    submit,
    try_out,
    watch,
)
from understudy.schemas import DistillationSpec
from understudy.testing import tiny_classifier


def _failed(**error: str) -> dict[str, Any]:
    return {"status": "failed", "phase": "preflight", "phases": [], "error": error}


def _orchestrator(*answers: dict[str, Any] | None) -> OrchestratorClient:
    """An orchestrator without streams that says these jobs one after the other; None is a moment when it is away."""
    coming: Iterator[dict[str, Any] | None] = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(404, json={})
        job = next(coming)
        if job is None:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, json=job)

    return OrchestratorClient("http://orchestrator", transport=httpx.MockTransport(answer))


def test_an_orchestrator_that_starts_again_is_waited_for() -> None:
    checks: list[int] = []
    running = {"status": "running", "phase": "train", "phases": []}
    client = _orchestrator(running, None, None, running, _failed(message="no such model", param="model"))
    with pytest.raises(StageFailed, match="no such model") as caught:
        watch(client, "ftjob-1", lambda _: None, lambda: checks.append(1), seconds=0)
    assert len(checks) == 4  # also while it was away: that is when the stack starts it again
    assert caught.value.param == "model"


def test_one_that_stays_away_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PATIENCE", 0.05)
    with pytest.raises(Unavailable, match="does not answer"):
        watch(_orchestrator(*[None] * 1000), "ftjob-1", lambda _: None, seconds=0.01)


@pytest.mark.parametrize("status", [200, 409, 503])
def test_ctrl_c_cancels_the_job_and_is_still_ctrl_c(status: int) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.path}")
        return httpx.Response(status, json={"id": "ftjob-1"})

    client = OrchestratorClient("http://orchestrator", transport=httpx.MockTransport(answer))
    with pytest.raises(KeyboardInterrupt), cancelled_by_interrupt(client, "ftjob-1"):
        raise KeyboardInterrupt
    assert asked == ["POST /v1/fine_tuning/jobs/ftjob-1/cancel"]


def test_a_models_folder_is_named_by_its_whole_path_and_other_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_classifier(tmp_path / "mine")
    (tmp_path / "production").mkdir()  # no model: the alias of that name is meant
    monkeypatch.chdir(tmp_path)
    assert model_reference("mine") == str(tmp_path / "mine")
    for name in ("production", "google/flan-t5-small", "scratch:bert-1x32", "model-0123", "cut:2", "cut:2@production"):
        assert model_reference(name) == name
    assert model_reference("cut:2@mine") == f"cut:2@{tmp_path / 'mine'}"


def test_what_is_left_to_the_service_is_not_in_the_job() -> None:
    method = distillation_job("student", "teacher", recipe=["auto"], min_probability=None)["method"]
    assert method["type"] == "distillation"
    assert method["distillation"] == {
        "teacher": {"model": "teacher", "finetune": False},
        "recipe": ["auto"],
        "attribution": {"method": "saliency", "settings": {}, "top_k": 5},
        "seeds": [0],
        "search": "auto",
    }


def test_every_option_of_a_job_finds_its_field() -> None:
    body = distillation_job(
        "cut:2",
        "teacher",
        finetune_teacher=True,
        attribution=("integrated_gradients", {"n_steps": 20}),
        top_k=8,
        seeds=2,
        search=False,
        max_steps=50,
        patience=3,
        lora=4,
        sizes="100, 300",
        budget_seconds=60.0,
        budget_teacher_tokens=1000,
        min_probability=0.8,
        alias="mine",
    )
    spec = DistillationSpec.model_validate(body["method"]["distillation"])
    assert (spec.attribution.method, spec.attribution.settings, spec.attribution.top_k) == (
        "integrated_gradients",
        {"n_steps": 20},
        8,
    )
    assert (spec.sizes, spec.seeds, spec.search, spec.min_probability) == ((100, 300), (0, 1), "off", 0.8)
    assert spec.lora is not None
    assert spec.budget is not None
    assert (spec.lora.rank, spec.budget.seconds, spec.budget.teacher_tokens) == (4, 60, 1000)
    assert (spec.hyperparameters.max_steps, spec.hyperparameters.patience, spec.alias) == (50, 3, "mine")
    timed = distillation_job("cut:2", "teacher", seconds=90.0)["method"]["distillation"]
    assert DistillationSpec.model_validate(timed).hyperparameters.seconds == 90
    with pytest.raises(ValidationError, match="both say how long an arm may train"):
        DistillationSpec.model_validate(timed | {"budget": {"seconds": 60}})
    assert spec.teacher.finetune


def test_sizes_that_cannot_be_read_are_named_by_their_field() -> None:
    with pytest.raises(InvalidRequest, match="100,300,1000") as caught:
        distillation_job("student", "teacher", sizes="100;300")
    assert caught.value.param == "method.distillation.sizes"


FOUND = {
    "rows": {"train": 1000, "validation": 10, "test": 20, "unlabelled": 50, "rejected": 2},
    "rejected_rows": {"count": 2, "data": [{"split": "unlabelled", "line": 7, "reason": "input is empty"}]},
    "task": {"kind": "classification", "labels": ["bad", "good"]},
    "student": {"model": "s", "tokens": 12345, "longest": 600, "window": 512, "truncated_share": 0.021},
    "teacher": None,
    "arms": [{"name": "finetune", "candidate": True}, {"name": "x+random_rationale", "candidate": False}],
    "searches": True,
    "estimate": {
        "runs": 7,
        "steps_per_run": 400,
        "search_runs": 10,
        "search_steps_per_run": 100,
        "teacher_examples": 1050,
        "teacher_calls": 34,
        "seconds": None,
        "disk_bytes": 12_000_000,
        "unknown": ["seconds of train: no earlier job here did the same"],
    },
}


def test_a_dry_run_is_told_in_sentences_and_its_warnings_last() -> None:
    lines = dry_run_lines(FOUND)
    told = dict(lines)
    assert told["rows"] == "1,000 train · 10 validation · 20 test · 50 unlabelled"
    assert told["search"].startswith("10 short trainings of 100 steps at most")
    assert told["training"] == "at most 7 trainings, 400 steps each"
    assert told["explaining"] == "1,050 texts in 34 requests"
    assert (told["recipes"], told["disk"]) == ("finetune", "about 12 MB")
    assert "teacher" not in told
    assert "time" not in told
    assert [line for name, line in lines if name == "!"] == [line for _, line in lines[-3:]]
    warnings = " / ".join(line for _, line in lines[-3:])
    for words in ("2 rows would be set aside; the first is line 7 of unlabelled", "2.1% of the rows", "no earlier job"):
        assert words in warnings


def test_files_become_ids_where_the_job_has_their_fields(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"id": f"id-{len(sent)}"})

    client = OrchestratorClient("http://orchestrator", transport=httpx.MockTransport(answer))
    files = dict.fromkeys(["training_file", "test_file", "unlabelled_file"], tmp_path / "rows.jsonl")
    job = distillation_job("s", "t", recipe=["auto"])
    assert submit(client, files, job) == "id-4"
    body = json.loads(sent[-1].content)
    assert body["training_file"] == "id-1"
    assert body["method"]["distillation"]["test_file"] == "id-2"
    assert body["method"]["distillation"]["unlabelled_file"] == "id-3"
    assert "test_file" not in job["method"]["distillation"]
    try_out(client, {"training_file": tmp_path / "rows.jsonl"}, job)
    assert sent[-1].url.params["dry_run"] == "true"
