"""A job watched over HTTP, as a client without a stack of its own sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from understudy import jobs
from understudy.client import OrchestratorClient
from understudy.errors import StageFailed, Unavailable
from understudy.jobs import cancelled_by_interrupt, model_reference, watch
from understudy.testing import tiny_classifier


def _failed(**error: str) -> dict[str, Any]:
    return {"status": "failed", "phase": "preflight", "phases": [], "error": error}


def _orchestrator(*answers: dict[str, Any] | None) -> OrchestratorClient:
    """An orchestrator that says these jobs one after the other; None is a moment in which it is away."""
    coming: Iterator[dict[str, Any] | None] = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
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
    for name in ("production", "google/flan-t5-small", "scratch:bert-1x32", "model-0123"):
        assert model_reference(name) == name
