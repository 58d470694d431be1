"""What a phase's function is given beside its job and item: the stores, the teachers, and the grip on its item."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import httpx

from services.orchestrator.database import BUSY_SECONDS, Database
from services.orchestrator.flow import Flow
from services.orchestrator.idempotency import Idempotency
from services.orchestrator.jobs import Event, Item, Queue
from services.orchestrator.leases import Leases
from services.orchestrator.migrate import prepare
from services.orchestrator.outbox import Outbox
from services.orchestrator.rationales import Rationales
from services.orchestrator.settings import Settings
from services.orchestrator.store import FileRow, FileStore, JobStore
from services.orchestrator.tally import Tallies
from services.orchestrator.teachers import Teachers
from services.orchestrator.turns import Turns
from services.orchestrator.worker_metrics import WorkerMetrics
from understudy.artifacts import ArtifactStore

__all__ = ["Context", "Grip", "Send"]

Send = Callable[[str, Queue], None]
"""Sends the id of a work item to a queue. Raises Unavailable when the broker does not answer."""


class Grip(Protocol):
    """A claimed work item, from the side of whoever works on it."""

    def check(self) -> None:
        """Raise when the work must stop: the item is somebody else's by now, or this worker shuts down."""

    def progress(self, completed: int, total: int | None = None) -> None:
        """Say how far the work is, in the phase's unit. Raises as `check` does."""

    def event(self, event: Event) -> None:
        """Add a line to the job's story."""


class Context:
    """Everything with a connection, made once a process; threads share it."""

    def __init__(
        self,
        settings: Settings,
        send: Send,
        *,
        transport: httpx.BaseTransport | None = None,
        metrics: WorkerMetrics | None = None,
        clock: Callable[[], float] = time.time,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        """Connect, and create what is not there yet. `transport` replaces the network to the teachers."""
        self.settings = settings
        self.send = send
        self.clock = clock
        self.metrics = metrics or WorkerMetrics()
        self.database = Database(settings.database, busy_seconds)
        prepare(self.database)
        self.artifacts = ArtifactStore(settings.artifact_root)
        self.teachers = Teachers(settings, transport, self.metrics)
        self.files = FileStore(self.database)
        self.jobs = JobStore(self.database, clock)
        self.flow = Flow(self.database, settings.max_attempts, clock, settings.lease_seconds)
        self.leases = Leases(self.database, settings.lease_seconds, clock)
        self.outbox = Outbox(self.database, settings.window, settings.resend_seconds, clock)
        self.rationales = Rationales(self.database, self.artifacts)
        self.tallies = Tallies(self.database)
        self.turns = Turns()
        self.idempotency = Idempotency(self.database, clock)

    def path_of(self, file: FileRow) -> Path:
        """A local copy of a file's bytes. Treat it as read-only."""
        (name,) = self.artifacts.get(file.artifact).files
        return self.artifacts.folder(file.artifact) / name

    def scratch(self, item: Item) -> Path:
        """A folder for what an item makes on its way; it goes when the item has ended, whoever had it then.

        Each claim has its own, so that a worker that was taken for dead is not in the way of the next.
        """
        folder = self.settings.work / item.id / f"scratch-{item.token}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def close(self) -> None:
        self.teachers.close()
        self.database.close()
