"""`understudy jobs`, and the other commands that ask a running service, against a real stack."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.client import OrchestratorClient
from understudy.commands.exits import Exit
from understudy.jobs import distillation_job, submit
from understudy.stack import Stack, addresses

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

UNDERSTUDY = str(Path(sys.executable).parent / "understudy")
TINY = ["--teacher", "scratch:bert-1x16", "--student", "scratch:bert-1x16", "--finetune-teacher", "--seeds", "1"]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([UNDERSTUDY, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=240)

    return call


def _rows(path: Path, words: tuple[str, ...] = ("warm", "cold")) -> Path:
    rows = "".join(f'"{path.stem} {i}, which was {word}",{word}\n' for i in range(40) for word in words)
    path.write_text("text,label\n" + rows)
    return path


def _long_job(client: OrchestratorClient, path: Path) -> str:
    job = distillation_job("scratch:bert-1x16", "scratch:bert-1x16", finetune_teacher=True, max_steps=100_000)
    return submit(client, {"training_file": _rows(path)}, job)


@pytest.mark.slow
def test_a_job_is_made_found_shown_watched_and_its_student_asked(stack: Stack, tmp_path: Path, run: Run) -> None:
    file = _rows(tmp_path / "halls.csv")
    options = ["--recipe", "logit_kd", "--max-steps", "20", "--alias", "halls", "--metadata", "made-by=jobs-commands"]
    done = run("distill", str(file), *TINY, *options, "--url", stack.orchestrator_url, "--json")
    assert done.returncode == Exit.OK, done.stderr
    made = json.loads(done.stdout)
    job_id = made["job"]["id"]
    assert made["job"]["status"] == "succeeded"
    assert made["report"]["published"]["recipe"] in ("finetune", "logit_kd")
    assert "train      done" in done.stderr

    here = ["--home", str(stack.config.home)]  # the stack says where it is
    found = json.loads(run("jobs", "list", "--metadata", "made-by=jobs-commands", *here, "--json").stdout)
    assert [one["id"] for one in found] == [job_id]
    nothing = run("jobs", "list", "--metadata", "made-by=jobs-commands", "--state", "failed", *here)
    assert nothing.stdout.strip() == "There is no such job."

    shown = run("jobs", "show", job_id, *here).stdout
    for words in ("✓ train", "cost", "teacher tokens", "made-by=jobs-commands", "The job has succeeded"):
        assert words in shown
    with_report = json.loads(run("jobs", "show", job_id, "--report", "--events", "1", *here, "--json").stdout)
    assert with_report["report"] == made["report"]
    assert [one["message"] for one in with_report["events"]] == ["The job has succeeded"]
    watched = json.loads(run("jobs", "watch", job_id, *here, "--json").stdout)
    assert (watched["job"]["id"], watched["report"]) == (job_id, made["report"])

    near = run("jobs", "show", f"{job_id[:-2]}zz", *here)
    assert near.returncode == Exit.NO
    assert f"Did you mean '{job_id}'?" in near.stderr
    ended = run("jobs", "pause", job_id, *here)
    assert ended.returncode == Exit.NO
    assert "it has ended" in ended.stderr

    by_service = ["--model", "halls", "--url", stack.student_url, "--json"]
    by_folder = ["--model", "halls", "--home", str(stack.config.home), "--engine", "hf", "--json"]
    told = [json.loads(run("evaluate", str(file), *where).stdout) for where in (by_service, by_folder)]
    assert told[0]["model"] == told[1]["model"] == made["job"]["fine_tuned_model"]
    assert told[0]["confusion"] == told[1]["confusion"]
    lines = run("predict", str(file), *by_service).stdout.splitlines()
    assert [json.loads(line)["line"] for line in lines] == list(range(2, 82))


def test_a_job_is_paused_resumed_and_cancelled_and_who_watches_it_is_told(
    stack: Stack, orchestrator: OrchestratorClient, tmp_path: Path, run: Run
) -> None:
    job_id = _long_job(orchestrator, tmp_path / "sheds.csv")
    deadline = time.monotonic() + 120
    while orchestrator.job(job_id)["status"] != "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    url = ["--url", stack.orchestrator_url]
    try:
        paused: dict[str, Any] = json.loads(run("jobs", "pause", job_id, *url, "--json").stdout)
        assert (paused["id"], paused["status"]) == (job_id, "paused")
        assert json.loads(run("jobs", "resume", job_id, *url, "--json").stdout)["status"] in ("queued", "running")
        command = [UNDERSTUDY, "jobs", "watch", job_id, *url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            assert "validate" in watching.stdout.readline()  # it follows
            assert "cancelled in phase" in run("jobs", "cancel", job_id, *url).stdout
            _, errors = watching.communicate(timeout=120)
        assert watching.returncode == Exit.JOB
        assert f"job {job_id} cancelled in phase" in errors
    finally:
        if orchestrator.job(job_id)["status"] not in ("cancelled", "failed", "succeeded"):
            orchestrator.cancel(job_id)


def test_a_job_that_fails_has_a_status_of_its_own_and_says_what_to_do(stack: Stack, tmp_path: Path, run: Run) -> None:
    file = _rows(tmp_path / "barns.csv", words=("warm",))
    done = run("distill", str(file), *TINY, "--url", stack.orchestrator_url, "--json")
    assert done.returncode == Exit.JOB, done.stderr
    assert done.stdout == ""
    with OrchestratorClient(stack.orchestrator_url) as client:
        job = client.jobs()[0]
    shown = run("jobs", "show", job["id"], "--url", stack.orchestrator_url).stdout
    assert "✗" in shown
    assert "submit it again" in " ".join(shown.split())


def test_a_stack_says_where_it_is_as_long_as_it_runs(stack: Stack, tmp_path: Path) -> None:
    found = addresses(stack.config.home)
    assert found is not None
    assert found["orchestrator"] == stack.orchestrator_url
    (tmp_path / "stack.json").write_text(json.dumps(found))  # left over by one that was killed
    assert addresses(tmp_path) is None
    (tmp_path / "stack.lock").touch()
    assert addresses(tmp_path) is None


def test_the_doctor_finds_the_stack_of_its_folder_well(stack: Stack, run: Run) -> None:
    done = run("doctor", "--home", str(stack.config.home), "--json")
    found = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert (found["orchestrator"]["state"], found["teacher"]["state"], found["database"]["state"]) == ("ok", "ok", "ok")
    assert "can be written" in found["artifacts"]["says"]
