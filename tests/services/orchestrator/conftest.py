"""A store on a real file, a teacher without a model, and jobs that are worked on in this process."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from services.orchestrator.child import warm
from services.orchestrator.context import Context
from services.orchestrator.dispatch import sweep
from services.orchestrator.execute import execute
from services.orchestrator.flow import Next
from services.orchestrator.jobs import ENDED, Job, NewItem, Phase, Queue, new_id
from services.orchestrator.pipeline import first_items
from services.orchestrator.settings import Settings
from services.orchestrator.store import FileRow
from understudy.schemas import DistillationSpec, TeacherSpec
from understudy.testing import FakeTeacher

POSTGRES = os.environ.get("UNDERSTUDY_TEST_POSTGRES")
"""A server to try PostgreSQL on as well, as a URL without a database: `postgresql+psycopg://user@127.0.0.1:5432`."""

SUBJECTS = ("film", "meal", "room", "book", "train", "song", "coat", "garden")
LABELS = ("awful", "fine", "great")


def _rows(count: int = 80) -> str:
    """JSON lines in which the label stands in the text, so that the fake teacher and a tiny student can learn it."""
    return "".join(
        f'{{"input": "The {SUBJECTS[i % 8]} number {i} was {LABELS[i % 3]} I think", "output": "{LABELS[i % 3]}"}}\n'
        for i in range(count)
    )


@pytest.fixture(params=["sqlite", "postgresql"] if POSTGRES else ["sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database of each kind that there is here."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'jobs.db'}"
        return
    server = POSTGRES
    name = f"understudy_{uuid.uuid4().hex[:12]}"
    admin = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with admin.connect() as sql:
        sql.execute(text(f"CREATE DATABASE {name}"))
    yield f"{server}/{name}"
    with admin.connect() as sql:
        sql.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(scope="session")
def fork_server() -> None:
    """The server that children come from, with torch imported once: it must be warmed before the first child."""
    warm()


@pytest.fixture(scope="session")
def make_settings() -> Callable[[Path], Settings]:
    """Settings for quick tests, with everything below one folder."""

    def make(folder: Path) -> Settings:
        return Settings(
            home=folder / "home",
            broker_url="redis+socket:///nowhere/redis.sock",
            shard_size=16,
            lease_seconds=2.0,
            heartbeat_seconds=0.05,
            retry_after=0.0,
            sweep_seconds=0.2,
            teacher_patience=0.5,
        )

    return make


@pytest.fixture
def settings(tmp_path: Path, make_settings: Callable[[Path], Settings]) -> Settings:
    return make_settings(tmp_path)


@pytest.fixture
def teacher() -> FakeTeacher:
    return FakeTeacher()


class Bench:
    """A context whose messages stay in a list until `work` takes them: a broker and a worker that a test can watch."""

    def __init__(self, settings: Settings, teacher: FakeTeacher, clock: Callable[[], float] = time.time) -> None:
        self.sent: list[tuple[str, Queue]] = []
        self.context = Context(
            settings, lambda item_id, queue: self.sent.append((item_id, queue)), transport=teacher, clock=clock
        )

    def upload(self, content: str | bytes, name: str = "data.jsonl") -> str:
        folder = self.context.settings.home / "uploads" / new_id("")
        folder.mkdir(parents=True)
        data = content.encode() if isinstance(content, str) else content
        (folder / f"data{Path(name).suffix}").write_bytes(data)
        artifact = self.context.artifacts.publish("file", folder).id
        row = FileRow(new_id("file-"), int(time.time()), name, "fine-tune", len(data), artifact)
        return self.context.files.add(row).id

    def job(self, **changes: Any) -> Job:
        spec = changes.pop("spec", {})
        values = {
            "id": new_id("ftjob-"),
            "created_at": int(self.context.clock()),
            "phase_started_at": self.context.clock(),
            "model": "scratch:bert-1x16",
            "training_file": changes.pop("training_file", None) or "file-none",
            "spec": DistillationSpec.model_validate({"teacher": TeacherSpec(model="teacher"), **spec}),
        }
        return Job.model_validate(values | changes)

    def submit(self, **changes: Any) -> Job:
        """A job on a fresh upload, with its first item."""
        if "training_file" not in changes:
            changes["training_file"] = self.upload(_rows())
        job = self.job(**changes)
        self.context.flow.submit(job, first_items(job, self.context.settings))
        return job

    def submit_items(self, count: int, phase: Phase = "annotate", queue: Queue = "annotate", **changes: Any) -> Job:
        """A job that stands in `phase` with so many bare items."""
        job = self.job(**{"phase": phase, "status": "queued", **changes})
        self.context.flow.submit(job, Next(queue, [NewItem(total=1)] * count))
        return job

    def item_ids(self, job: Job, phase: Phase = "annotate") -> list[str]:
        return [item.id for item in self.context.flow.items(job.id, phase)]

    def work(self, job: Job, until: Phase = "done", seconds: float = 60.0) -> Job:
        """Sweep and execute until the job has ended or stands in the phase `until`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            now = self.context.jobs.get(job.id)
            if now.status in ENDED or now.phase == until:
                return now
            sweep(self.context)
            while self.sent and self.context.jobs.get(job.id).phase != until:
                item_id, _ = self.sent.pop(0)
                execute(self.context, item_id, "worker-1", threading.Event())
                sweep(self.context)
        raise AssertionError(f"the job stands still: {self.context.jobs.get(job.id)}")

    def messages(self, job: Job) -> list[str]:
        """The job's story, in order."""
        found, _ = self.context.jobs.events(job.id, None, 1000)
        return [one.event.message for one in reversed(found)]


@pytest.fixture
def bench(settings: Settings, teacher: FakeTeacher) -> Iterator[Bench]:
    one = Bench(settings, teacher)
    yield one
    one.context.close()


@pytest.fixture(scope="session")
def make_bench() -> type[Bench]:
    return Bench


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def rows() -> Callable[..., str]:
    return _rows
