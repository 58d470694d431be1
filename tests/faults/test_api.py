"""The API as a process that is killed right after it said yes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stand.processes import ROOT, TEST_ROWS, VALIDATION_ROWS, Stand, wait

from services.orchestrator.dispatch import Sweeper
from understudy.client import OrchestratorClient

pytestmark = pytest.mark.e2e


def test_a_job_whose_api_is_killed_right_after_its_answer_runs(
    stand: Stand, rows: str, tmp_path: Path, free_port: int
) -> None:
    stand.sweeper.stop()  # of this process: nobody but the workers is left to move the job on
    environment = stand.environment | {"UNDERSTUDY_PORT": str(free_port)}
    api = subprocess.Popen([sys.executable, "-m", "services.orchestrator"], cwd=ROOT, env=environment)
    try:
        with OrchestratorClient(f"http://127.0.0.1:{free_port}") as client:
            wait(client.ready)

            def upload(content: str) -> str:
                data = tmp_path / "rows.jsonl"
                data.write_text(content)
                return client.upload(data)

            spec = {"teacher": {"model": "teacher"}, "recipe": "finetune", "test_file": upload(TEST_ROWS)}
            body: dict[str, Any] = {
                "model": "scratch:bert-1x16",
                "training_file": upload(rows),
                "validation_file": upload(VALIDATION_ROWS),
                "method": {"type": "distillation", "distillation": spec},
            }
            job_id = client.create_job(body)["id"]
            api.send_signal(signal.SIGKILL)
            api.wait()
        stand.check_annotated(stand.context.jobs.get(job_id), rows)
    finally:
        api.kill()
        api.wait()
        stand.sweeper = Sweeper(stand.context)
        stand.sweeper.start()
