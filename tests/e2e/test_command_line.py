"""The commands as a user types them, and the stack that they start and end."""

from __future__ import annotations

import copy
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console
from stand.processes import interruptible

from understudy import quickstart
from understudy.client import OrchestratorClient, TeacherClient
from understudy.errors import Conflict
from understudy.stack import Stack, StackConfig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

UNDERSTUDY = [str(Path(sys.executable).parent / "understudy")]


def _run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*UNDERSTUDY, *arguments], capture_output=True, text=True, cwd=cwd, timeout=240, check=False)


def test_the_quickstart_shows_every_part_of_the_loop(stack: Stack) -> None:
    job: dict[str, Any] = copy.deepcopy(dict(quickstart.QUICKSTART_JOB))
    distillation = job["method"]["distillation"]
    distillation |= {"seeds": [0], "recipe": "rationale_gate", "hyperparameters": {"max_steps": 60}}
    distillation["teacher"] |= {"hyperparameters": {"max_steps": 60}}
    shown = io.StringIO()
    quickstart.run(stack, Console(file=shown, width=100), job)
    text = shown.getvalue()
    for phase in ("validate", "teacher", "annotate", "train", "evaluate", "publish"):
        assert re.search(rf"{phase} +done", text), phase
    assert re.search(r"rationale_gate (BEATS|DOES NOT BEAT|against) finetune", text)
    assert "teacher" in text
    assert "baseline: always" in text
    assert len(re.findall(r"\[\w+\]", text)) >= len(quickstart.SENTENCES)  # words in brackets: there are no colours
    assert f"{stack.student_url}/v1/predictions" in text
    assert (stack.config.home / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_distill_takes_a_csv_and_a_running_orchestrator(stack: Stack, tmp_path: Path) -> None:
    rows = "".join(f'"Room {i}, which was {word}",{word}\n' for i in range(40) for word in ("warm", "cold"))
    (tmp_path / "rooms.csv").write_text("text,label\n" + rows)
    options = ["--teacher", "scratch:bert-1x16", "--student", "scratch:bert-1x16", "--finetune-teacher"]
    options += ["--recipe", "logit_kd", "--seeds", "1", "--max-steps", "20", "--alias", "rooms"]
    done = _run("distill", "rooms.csv", *options, "--url", stack.orchestrator_url, "--home", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "logit_kd" in done.stdout
    assert list((tmp_path / "out").glob("ftjob-*.html"))


def test_a_dry_run_prints_what_a_job_would_find_and_cost_and_makes_none(stack: Stack, tmp_path: Path) -> None:
    rows = "".join(f'"Hall {i}, which was {word}",{word}\n' for i in range(40) for word in ("warm", "cold"))
    (tmp_path / "halls.csv").write_text("text,label\n" + rows)
    (tmp_path / "more.csv").write_text("text\n" + "".join(f'"Shed {i}, which was damp"\n' for i in range(9)))
    options = ["--teacher", "scratch:bert-1x16", "--student", "scratch:bert-1x16", "--finetune-teacher", "--dry-run"]
    options += ["--unlabelled", "more.csv", "--sizes", "20", "--url", stack.orchestrator_url]
    with OrchestratorClient(stack.orchestrator_url) as client:
        before = len(client.jobs())
        done = _run("distill", "halls.csv", *options, cwd=tmp_path)
        assert len(client.jobs()) == before
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "9 unlabelled",
        "2 labels: cold, warm",
        "short trainings of 150 steps at most",
        "trainings, 400 steps each",
    ):
        assert words in done.stdout
    refused = _run("distill", "halls.csv", *options[:-4], "--sizes", "4000", *options[-2:], cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "Error (--sizes): a training set of 4000 rows cannot be" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distill", "nowhere.csv", "--teacher", "t", "--student", "s"], "there is no file 'nowhere.csv'"),
        (["distill", __file__, "--teacher", "t", "--student", "s", "--url", "http://127.0.0.1:9"], "does not answer"),
    ],
)
def test_an_error_is_one_clear_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = _run(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = ["--port", "0", "--student-port", "0", "--teacher-port", str(port)]
        done = _run("up", "--home", "home", *ports, cwd=tmp_path)
    assert done.returncode == 1
    assert f"port {port} for the teacher cannot be had" in done.stderr
    assert f"process id {os.getpid()}" in done.stderr
    assert "--teacher-port" in done.stderr
    assert not (tmp_path / "home" / "redis").exists()


def test_a_folder_belongs_to_one_stack(stack: Stack) -> None:
    with pytest.raises(Conflict, match="runs in"), Stack(StackConfig(stack.config.home, port=0)):
        pass


def test_a_service_that_dies_is_started_again(stack: Stack) -> None:
    before = stack.processes()["teacher"]
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 60
    with TeacherClient(stack.teacher_url, timeout=2) as teacher:
        while teacher.ready() and time.monotonic() < deadline:
            time.sleep(0.05)
        while not teacher.ready() and time.monotonic() < deadline:
            stack.check()
            time.sleep(0.1)
        assert teacher.ready()
    assert stack.processes()["teacher"] != before
    assert "teacher ended with code -9" in stack.log_path.read_text()


@contextmanager
def _told_apart(running: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """One that takes longer than that is ended, and says on its standard error where each of its threads was."""
    watch = threading.Timer(seconds, running.send_signal, [signal.SIGABRT])
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_up_leaves_no_process_behind(ending: signal.Signals, tmp_path: Path) -> None:
    ports = ["--port", "0", "--teacher-port", "0", "--student-port", "0"]
    command = [*UNDERSTUDY, "up", "--home", str(tmp_path / "home"), *ports, "--quiet"]
    said, environment = tmp_path / "said.txt", {**os.environ, "PYTHONFAULTHANDLER": "1"}
    with (
        said.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, preexec_fn=interruptible
        ) as running,
        _told_apart(running, 200),
    ):
        assert running.stdout is not None
        shown = [running.stdout.readline() for _ in range(5)]
        started = psutil.Process(running.pid).children(recursive=True)
        address = re.search(r"orchestrator +(http://[\d.:]+)", "".join(shown))
        assert address, (shown, said.read_text())
        with OrchestratorClient(address[1]) as client:
            assert client.ready()
        running.send_signal(ending)
        told = time.monotonic()
        running.communicate()
        seconds = time.monotonic() - told
    assert running.returncode != -signal.SIGABRT, said.read_text()
    assert seconds < 30
    assert len(started) >= 6
    _, alive = psutil.wait_procs(started, timeout=5)
    assert alive == []
    assert "redis" in (tmp_path / "home" / "understudy.log").read_text()
