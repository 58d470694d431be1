"""For tests of the dashboard: the orchestrator on a database with one finished job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from stand.bench import Bench, quick_settings, rows
from stand.server import Server

from services.orchestrator.child import warm
from services.orchestrator.jobs import Job
from services.orchestrator.settings import Settings
from understudy.testing import FakeTeacher

HOSTILE = "".join(
    f'{{"input": "<img src=x onerror=window.hacked=1> was great {i}", "output": "great"}}\n'
    f'{{"input": "the \\u202eevil txet\\u202c film \\ud83d\\ude00 was awful {i}", "output": "awful"}}\n'
    for i in range(4)
)
"""Rows that try to be HTML, and to turn around what stands beside them; so many that some are in each split."""
REJECTED = '{"input": "no answer <img src=x onerror=window.hacked=1>"}\n'


@dataclass(frozen=True)
class Seeded:
    """A database and a store with one finished job, and the teacher that it asked."""

    settings: Settings
    bench: Bench
    job: Job
    teacher: FakeTeacher


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeded]:
    """One real job on a fake teacher, worked on in this process; some students for the same alias beside it."""
    warm()
    folder = tmp_path_factory.mktemp("dashboard")
    settings = quick_settings(folder, sweep_seconds=60.0, engines=())
    teacher = FakeTeacher()
    bench = Bench(settings, teacher)
    spec = {"hyperparameters": {"max_steps": 8}, "recipe": ["rationale_gate"]}
    job = bench.work(bench.submit(training_file=bench.upload(rows(80) + HOSTILE + REJECTED), spec=spec), seconds=240)
    assert job.status == "succeeded", job.error
    yield Seeded(settings, bench, job, teacher)
    bench.context.close()


@pytest.fixture
def serve(seeded: Seeded) -> Iterator[Callable[..., Server]]:
    """Starts the API on the seeded database, with settings changed as asked."""
    started: list[Server] = []

    def start(**changes: object) -> Server:
        started.append(Server(seeded.settings.model_copy(update=changes)))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where the pictures that the tests take are left, for people to look at; git ignores it."""
    folder = Path(__file__).parents[2] / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
