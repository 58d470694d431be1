"""Jobs that are worked on in this process, one message after the other, and time that a test moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

__all__ = ["FEW", "LABELS", "SUBJECTS", "Bench", "Clock", "quick_settings", "rows"]

SUBJECTS = ("film", "meal", "room", "book", "train", "song", "coat", "garden")
LABELS = ("awful", "fine", "great")
FEW = {"recipe": ["rationale_gate", "logit_kd"]}
"""The recipes of a job whose test is about something else: too few for a search."""


def rows(count: int = 80, tag: str = "") -> str:
    """JSON lines in which the label stands in the text, so that the fake teacher and a tiny student can learn it.

    Another `tag` gives rows that nobody has seen before.
    """
    texts = (
        (f"The {SUBJECTS[i % 8]} number {i}{tag} was {LABELS[i % 3]} I think", LABELS[i % 3]) for i in range(count)
    )
    return "".join(f'{{"input": "{text}", "output": "{label}"}}\n' for text, label in texts)


def quick_settings(folder: Path, **changes: Any) -> Settings:
    """Settings under which nothing waits for long, with everything below one folder and no broker."""
    values = {
        "home": folder / "home",
        "broker_url": "redis+socket:///nowhere/redis.sock",
        "shard_size": 16,
        "lease_seconds": 2.0,
        "heartbeat_seconds": 0.05,
        "retry_after": 0.0,
        "sweep_seconds": 0.2,
        "teacher_patience": 0.5,
    }
    return Settings(**values | changes)


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


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
            "spec": DistillationSpec.model_validate({"teacher": TeacherSpec(model="teacher"), **FEW, **spec}),
        }
        return Job.model_validate(values | changes)

    def submit(self, **changes: Any) -> Job:
        """A job on a fresh upload, with its first item."""
        if "training_file" not in changes:
            changes["training_file"] = self.upload(rows())
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
