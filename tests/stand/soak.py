"""Many jobs at once over HTTP, while dice kill orchestrators, workers, trainings and teachers; then: was all right?

The dice of one seed decide what each job is and who is killed when; which of two processes comes first stays chance.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil
from sqlalchemy import func, select

from services.orchestrator.database import jobs as jobs_table
from services.orchestrator.database import work_items
from services.orchestrator.jobs import ENDED, Job
from stand.bench import rows as make_rows
from stand.processes import ROOT, TEST_ROWS, VALIDATION_ROWS, Stand, processes_of, training_children
from understudy.artifacts import ArtifactStore

__all__ = ["Soak"]

Kind = Literal["whole", "cancel", "pause", "broken"]
KINDS: Mapping[Kind, float] = {"whole": 0.75, "cancel": 0.1, "pause": 0.1, "broken": 0.05}
VICTIMS: Mapping[str, float] = {"annotator": 3, "teacher": 3, "training": 1, "trainer": 0.5}
QUEUES = (("control", "annotate"), ("annotate", "control"))
"""Of the two workers that annotate; both take both, in the other order so that the stand tells them apart."""


@dataclass
class Client:
    """One job as its user sees it. `said` is the last state that an answer named."""

    number: int
    kind: Kind
    rows: str
    files: tuple[str, str, str]
    wait: float
    key: str
    job_id: str = ""
    said: str = ""


@dataclass
class Soak:
    folder: Path
    seed: str
    count: int
    seconds: float
    killed: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Raises AssertionError, with the seed, for anything that is not as it must be."""
        self.dice = random.Random(self.seed)
        self.deadline = time.monotonic() + self.seconds
        self.ports = _free_ports(3)
        urls = tuple(f"http://127.0.0.1:{port}" for port in self.ports[1:])
        # Whoever is killed now and then by dice is no reason to give up a piece of work.
        changes = {"teacher_urls": urls, "max_attempts": 50, "lease_seconds": 3.0, "port": self.ports[0]}
        self.stand = Stand(self.folder, **changes)
        self.stand.sweeper.stop()  # of this process: the orchestrators that are killed have their own
        self.teachers = [self._teacher(number) for number in range(len(urls))]
        self.api = self._start("stand.doomed", self.seed)
        self.over = threading.Event()
        self.errors: list[str] = []
        try:
            self._run()
        except AssertionError as error:
            raise AssertionError(f"seed {self.seed}: {error}") from error
        finally:
            self.over.set()
            self._end()

    def _run(self) -> None:
        clients = self._clients()
        self._workers()
        threads = [self._thread(self._use, client) for client in clients]
        tormentor = self._thread(self._torment)
        for thread in threads:
            thread.join(max(0.0, self.deadline - time.monotonic()) + 10)
        self._wait(lambda: not self._unfinished(), lambda: f"jobs that do not end: {self._unfinished()}")
        self.over.set()
        tormentor.join()
        self._end_orchestrators()
        assert not self.errors, self.errors
        self._check(clients)

    # --- the users ----------------------------------------------------------------------------------------------

    def _clients(self) -> list[Client]:
        kinds = self.dice.choices(list(KINDS), list(KINDS.values()), k=self.count)
        held_out = self.stand.upload(VALIDATION_ROWS), self.stand.upload(TEST_ROWS)
        made = []
        for number, kind in enumerate(kinds):
            rows = make_rows(3 if kind == "broken" else 24, f" of soak {number}")
            files = (self.stand.upload(rows), *held_out)
            wait = self.dice.uniform(0, 0.5 * self.count)
            made.append(Client(number, kind, rows, files, wait, f"{self.seed}-{number}"))
        return made

    def _use(self, client: Client) -> None:
        self.over.wait(client.wait)
        _, job = self._ask("POST", "/v1/fine_tuning/jobs", _body(client), client.key)
        client.job_id = job["id"]
        path = f"/v1/fine_tuning/jobs/{client.job_id}"
        if client.kind in ("cancel", "pause"):
            self.over.wait(client.wait % 7)  # at any moment of its life
            status, answer = self._ask("POST", f"{path}/{client.kind}")
            client.said = answer["status"] if status == 200 else answer["error"]["message"]
        if client.kind == "pause":
            while (now := self._ask("GET", path)[1]["status"]) == "paused":
                self._ask("POST", f"{path}/resume")
            client.said = now

    def _ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, dict[str, Any]]:
        """The answer to a request that is sent again until there is one."""
        headers = {"Idempotency-Key": key} if key else {}
        while time.monotonic() < self.deadline:
            try:
                url = f"http://127.0.0.1:{self.ports[0]}{path}"
                answer = httpx.request(method, url, json=body, headers=headers, timeout=20, trust_env=False)
                content = answer.json()
            except (httpx.TransportError, ValueError):
                time.sleep(0.1)
                continue
            at_work = answer.status_code == 409 and content["error"]["param"] == "Idempotency-Key"
            if answer.status_code < 500 and not at_work:
                assert answer.status_code in (200, 409), answer.text
                return answer.status_code, content
            if answer.status_code == 500:
                self.errors.append(f"{method} {path}: {answer.text}")
            time.sleep(0.2)
        raise AssertionError(f"{method} {path} has no answer in time")

    # --- the trouble --------------------------------------------------------------------------------------------

    def _torment(self) -> None:
        while not self.over.wait(self.dice.uniform(1.0, 6.0)):
            victim = self.dice.choices(list(VICTIMS), list(VICTIMS.values()))[0]
            place = self.dice.randrange(2)
            if victim == "teacher":
                self.teachers[place].kill()
                self.teachers[place].wait()
                self.over.wait(self.dice.uniform(0, 1))
                self.teachers[place] = self._teacher(place)
            elif victim == "training":
                self._kill_a_training(place)
                continue
            else:
                self.stand.kill(self.stand.worker(*(QUEUES[place] if victim == "annotator" else ("train",))))
                self._workers()
            self.killed[victim] += 1

    def _kill_a_training(self, place: int) -> None:
        found = training_children(self.stand.trainer())
        if found:
            try:
                os.kill(found[place % len(found)], signal.SIGKILL)
                self.killed["training"] += 1
            except ProcessLookupError:
                pass  # it has just ended by itself

    # --- what must hold -----------------------------------------------------------------------------------------

    def _check(self, clients: list[Client]) -> None:
        context = self.stand.context
        with context.database.read() as sql:
            assert sql.scalar(select(func.count()).select_from(jobs_table)) == self.count, "not one job for each key"
            held = select(func.count()).where(work_items.c.lease_until.is_not(None))
            assert sql.scalar(held) == 0, "a lease is left"
            waits = select(func.count()).where(work_items.c.state.in_(("pending", "running")))
            assert sql.scalar(waits) == 0, "an item waits for a job that has ended"
        fresh = ArtifactStore(self.stand.settings.artifact_root)  # which verifies every checksum again
        for client in clients:
            job = context.jobs.get(client.job_id)
            assert job.status == _expected(client), (client.kind, client.said, job.status, job.error)
            ends = sum(message == "The job has succeeded" for message in self.stand.messages(job))
            assert ends == (job.status == "succeeded")
            if job.status == "succeeded":
                self.stand.check_annotations(job, client.rows)
                assert job.fine_tuned_model is not None
                fresh.folder(job.fine_tuned_model)
            elif _annotated(job):
                self.stand.check_annotations(job, client.rows)
        work = self.stand.settings.work
        for left in (lambda: [*work.iterdir()], self.stand.strays, self.stand.orphans):
            self._wait(lambda left=left: not left(), lambda left=left: f"left over: {left()}", 30)

    def _unfinished(self) -> list[str]:
        with self.stand.context.database.read() as sql:
            query = select(jobs_table.c.id, jobs_table.c.phase).where(jobs_table.c.status.not_in(ENDED))
            return [f"{row.id} in {row.phase}" for row in sql.execute(query)]

    def _wait(self, ready: Callable[[], bool], what: Callable[[], str], seconds: float | None = None) -> None:
        until = self.deadline if seconds is None else time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < until, what()
            time.sleep(0.1)

    # --- the processes ------------------------------------------------------------------------------------------

    def _thread(self, target: Callable[..., None], *args: Any) -> threading.Thread:
        def guarded() -> None:
            try:
                target(*args)
            except Exception as error:
                self.errors.append(f"{target.__name__}: {type(error).__name__}: {error}")

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _workers(self) -> None:
        for queues in (*QUEUES, ("train",)):
            self.stand.worker(*queues)

    def _teacher(self, number: int) -> subprocess.Popen[bytes]:
        return self._start("stand.teacher", str(self.ports[1 + number]), f"{self.seed}-{number}")

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        environment = self.stand.environment | {"PYTHONPATH": str(ROOT / "tests")}
        if command[0] == "stand.teacher":
            environment.pop("UNDERSTUDY_HOME")  # it is no part of the installation
        return subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environment)

    def _end_orchestrators(self) -> None:
        self.api.terminate()
        self.api.wait(20)

    def _end(self) -> None:
        for process in (self.api, *self.teachers):
            process.kill()
            process.wait()
        self.stand.close()
        for left in processes_of(self.stand.settings.home):
            if left.pid != os.getpid():
                with suppress(psutil.NoSuchProcess):
                    left.kill()


def _body(client: Client) -> dict[str, Any]:
    train, validation, test = client.files
    spec = {"teacher": {"model": "teacher"}, "recipe": "finetune", "hyperparameters": {"max_steps": 2}}
    return {
        "model": "scratch:bert-1x16",
        "training_file": train,
        "validation_file": validation,
        "method": {"type": "distillation", "distillation": {**spec, "test_file": test}},
    }


def _expected(client: Client) -> str:
    """What must have become of a job, after what its user was told of it."""
    if client.kind == "broken":
        return "failed"
    # A cancel whose answer was lost with its process is told by the refusal of the next one.
    return "cancelled" if client.kind == "cancel" and "cancelled" in client.said.split(" and ")[0] else "succeeded"


def _annotated(job: Job) -> bool:
    return job.phase in ("train", "evaluate", "publish")


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
