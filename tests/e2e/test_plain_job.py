"""Plain fine-tuning on the real processes: tried out, submitted twice under one key, followed to its end, served."""

from __future__ import annotations

import httpx
import openai
import pytest

from understudy.client import OrchestratorClient, StudentClient
from understudy.schemas import PredictionRequest
from understudy.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

WORDS = ("awful", "fine", "great")


def _rows(count: int) -> bytes:
    lines = (
        f'{{"input": "Number {i} was {WORDS[i % 3]}, I think", "output": "{WORDS[i % 3]}"}}\n' for i in range(count)
    )
    return "".join(lines).encode()


def test_the_stock_client_fine_tunes_a_student_that_is_served(stack: Stack, orchestrator: OrchestratorClient) -> None:
    with openai.OpenAI(base_url=f"{stack.orchestrator_url}/v1", api_key="none") as client:
        file = client.files.create(file=("rows.jsonl", _rows(120)), purpose="fine-tune")
        body = {
            "model": "scratch:bert-1x32",
            "training_file": file.id,
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"max_steps": 60}, "alias": "plain"}},
        }
        tried = orchestrator.dry_run(body)
        assert (tried["architecture"], tried["estimate"]["steps_per_run"], tried["student"]["truncated_share"]) == (
            "classifier",
            60,
            0.0,
        )
        made = {client.fine_tuning.jobs.create(**body, extra_headers={"Idempotency-Key": "e2e"}).id for _ in range(2)}  # type: ignore[arg-type]
        (job_id,) = made
        told = [event["message"] for event in orchestrator.follow(job_id)]
        assert (told[0], told[-1]) == ("Job created", "The job has succeeded")
        job = client.fine_tuning.jobs.retrieve(job_id)
        assert (job.status, job.method and job.method.type) == ("succeeded", "supervised")
        assert job.trained_tokens
        with pytest.raises(openai.ConflictError):
            client.models.delete(str(job.fine_tuned_model))
    with StudentClient(stack.student_url) as student:
        request = PredictionRequest.model_validate({"model": "plain", "inputs": ["Number 7 was great, I think"]})
        assert student.predict(request).predictions[0].label in WORDS
    page = httpx.get(f"{stack.orchestrator_url}/v1/fine_tuning/jobs/{job_id}/report.html", trust_env=False)
    assert "Teacher accuracy" not in page.text
