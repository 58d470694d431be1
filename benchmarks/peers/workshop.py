"""The orchestrator without its API: a broker, the store with its sweeper in this process, and workers of their own.

`Workshop.annotate` takes rows through the whole fan-out, from the data set to the last shard. Knows no figures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from sqlalchemy import func, select

from peers.rounds import Cost
from services.orchestrator.broker import create_celery, sender
from services.orchestrator.context import Context
from services.orchestrator.database import work_items
from services.orchestrator.dispatch import Sweeper
from services.orchestrator.flow import Next
from services.orchestrator.jobs import Arm, Event, Facts, Job, Rows, new_id
from services.orchestrator.phases.annotate import plan
from services.orchestrator.settings import Settings
from understudy.data.parquet import write_examples
from understudy.schemas import DistillationSpec, Example, TaskSpec, TeacherSpec
from understudy.stack import broker_command

__all__ = ["LABELS", "Workshop", "examples", "wait"]

ROOT = Path(__file__).parents[2]
LABELS = ("negative", "positive")
TEXT = "the plot is thin but the acting is wonderful and the music that plays behind it is better still"


def examples(count: int, tag: str) -> Iterator[Example]:
    """Rows of 20 words that no other tag gives: the cache of rationales knows none of them."""
    return (Example(id=f"{tag}-{i}", input=f"{tag} {i} {TEXT}", output=LABELS[i % 2]) for i in range(count))


def wait(ready: Callable[[], Any], seconds: float = 3600.0, pause: float = 0.01) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen in time")
        time.sleep(pause)
    return found


class Workshop:
    """`workers` processes that annotate, as they come, for the teachers at `urls`."""

    def __init__(self, folder: Path, urls: Sequence[str], workers: int = 1, **changes: Any) -> None:
        self._closing = ExitStack()
        folder.mkdir(parents=True)
        socket = folder / "r.sock"
        options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", "", "--appendonly", "no"]
        self.broker = subprocess.Popen([*broker_command(), *options], stdout=subprocess.DEVNULL)
        self._closing.callback(_end, self.broker)
        wait(socket.exists, 10)
        values = {"home": folder / "home", "broker_url": f"redis+socket://{socket}", "teacher_urls": tuple(urls)}
        self.settings = Settings(**values | changes)
        self.context = Context(self.settings, sender(create_celery(self.settings)))
        self._closing.callback(self.context.close)
        self._sweeper = Sweeper(self.context)
        self._sweeper.start()
        self._closing.callback(self._sweeper.stop)
        self.workers = [self.start_worker() for _ in range(workers)]

    def __enter__(self) -> Self:
        self.annotate(examples(16, "warm"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def close(self) -> None:
        self._closing.close()

    def stop_sweeping(self) -> None:
        """Leave all of it to whoever calls `sweep`."""
        self._sweeper.stop()

    @property
    def environment(self) -> dict[str, str]:
        values = self.settings.model_dump(mode="json", exclude={"teacher_urls", "engines"})
        ours = {f"UNDERSTUDY_{name.upper()}": str(value) for name, value in values.items() if value not in ("", None)}
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        return {
            **os.environ,
            **ours,
            "UNDERSTUDY_TEACHER_URLS": ",".join(self.settings.teacher_urls),
            "PYTHONPATH": path,
        }

    def start_worker(self, queues: str = "annotate") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "services.orchestrator.worker", "--queues", queues]
        log = (self.settings.home / "workers.log").open("ab")
        worker = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        log.close()
        self._closing.callback(_end, worker)
        return worker

    def begin(self, rows: Iterable[Example]) -> Job:
        """A job that stands at the beginning of its annotation."""
        folder = self.settings.home / "made" / new_id("")
        folder.mkdir(parents=True)
        count = write_examples(folder / "train.parquet", rows)
        facts = Facts(
            dataset=self.context.artifacts.publish("dataset", folder).id,
            task=TaskSpec(kind="classification", labels=LABELS),
            rows=Rows(train=count, validation=0, test=0, rejected=0),
            arms=(Arm(name="rationale_gate", candidate=True),),
            teacher="teacher",
        )
        job = Job(
            id=new_id("ftjob-"),
            status="running",
            phase="annotate",
            created_at=int(time.time()),
            phase_started_at=time.time(),
            model="scratch:bert-1x16",
            training_file="file-none",
            spec=DistillationSpec(teacher=TeacherSpec(model="teacher"), recipe="rationale_gate"),
            facts=facts,
        )
        self.context.flow.submit(job, Next("annotate", plan(job, self.settings.shard_size)))
        return job

    def annotate(self, rows: Iterable[Example], watch: Callable[[Job], object] = lambda _: None) -> Cost:
        """What it costs from a job's submission until the last of its shards is stored."""
        cpu, started = self.cpu_seconds(), time.perf_counter()
        job = self.begin(rows)
        self._sweeper.wake()
        while self.annotates(job):
            watch(job)
            time.sleep(0.02)
        cost = Cost(self.cpu_seconds() - cpu, time.perf_counter() - started)
        self.finish(job)
        return cost

    def annotates(self, job: Job) -> bool:
        """Whether the job is still at it: it may have failed."""
        now = self.context.jobs.get(job.id)
        return now.phase == "annotate" and now.active

    def finish(self, job: Job) -> None:
        now = self.context.jobs.get(job.id)
        if now.phase != "train":
            raise RuntimeError(f"the job was to stand before its training: {now.error}")
        self.context.flow.end(job.id, "cancelled", Event(message="measured"))

    def count(self, job: Job, state: str) -> int:
        mine = (work_items.c.job_id == job.id) & (work_items.c.state == state)
        with self.context.database.read() as sql:
            return int(sql.scalar(select(func.count()).select_from(work_items).where(mine)) or 0)

    def cpu_seconds(self) -> float:
        """Processor time so far of the broker, the workers, and this process' sweeper, but not of who waits here."""
        pids = [os.getpid(), self.broker.pid, *(one.pid for one in self.workers)]
        times = [psutil.Process(pid).cpu_times() for pid in pids]
        return sum(one.user + one.system for one in times) - time.thread_time()

    def memory(self) -> dict[str, float]:
        """Resident MiB of each process: the broker, the workers, and this one, which sweeps."""
        pids = {"broker": self.broker.pid, "sweeper": os.getpid()}
        pids |= {f"worker {place}": one.pid for place, one in enumerate(self.workers)}
        return {name: psutil.Process(pid).memory_info().rss / 2**20 for name, pid in pids.items()}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
