"""Redis, a teacher, the API's side of the store with its sweeper, and workers as processes that a test kills.

What must hold after each fault is asked in one place, `Stand.check`: the same annotations as a run without faults, byte
for byte; no lease, no process and no file left over.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select

from services.orchestrator.broker import create_celery, sender
from services.orchestrator.context import Context
from services.orchestrator.database import work_items
from services.orchestrator.dispatch import Sweeper
from services.orchestrator.jobs import ENDED, Event, Job, Status
from services.orchestrator.pipeline import first_items
from services.orchestrator.settings import Settings
from stand.bench import Bench
from stand.bench import rows as make_rows
from stand.teacher import HttpTeacher
from understudy.artifacts import ArtifactStore
from understudy.data.parquet import read_annotated, read_examples
from understudy.stack import broker_command
from understudy.testing import FakeTeacher

__all__ = ["Broker", "Stand", "interruptible", "is_gone", "processes_of", "training_children", "wait"]

ROOT = Path(__file__).parents[2]
VALIDATION_ROWS, TEST_ROWS = make_rows(12, " to choose by"), make_rows(12, " to test with")


def wait(ready: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def interruptible() -> None:
    """For a child's beginning: a shell's background ignores Ctrl-C, and `nohup` a closed terminal; then so do we."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def training_children(worker: subprocess.Popen[bytes]) -> list[int]:
    """The processes that lead a group of their own below a worker: its trainings."""
    offspring = psutil.Process(worker.pid).children(recursive=True)
    return [child.pid for child in offspring if os.getpgid(child.pid) == child.pid]


class Broker:
    """Redis on a private socket, which a test can stop and start again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "r.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.process is not None:
            return
        options = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        durable = ["--appendonly", "yes", "--save", ""]
        self.process = subprocess.Popen([*broker_command(), *options, *durable], stdout=subprocess.DEVNULL)
        wait(self.socket.exists, 10)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.socket.unlink(missing_ok=True)

    @property
    def url(self) -> str:
        return f"redis+socket://{self.socket}"


class Stand:
    def __init__(self, folder: Path, broker: Broker | None = None, **changes: Any) -> None:
        self.folder = folder
        self.teacher = HttpTeacher()
        self._owns_broker = broker is None
        self.broker = broker or Broker(folder)
        self.broker.start()
        values = {
            "home": folder / "home",
            "broker_url": self.broker.url,
            "teacher_urls": (self.teacher.url,),
            "shard_size": 8,
            "teacher_max_examples": 4,
            "lease_seconds": 1.5,
            "heartbeat_seconds": 0.1,
            "retry_after": 0.1,
            "sweep_seconds": 0.1,
            "child_grace": 20.0,
            "resend_seconds": 2.0,
        }
        self.settings = Settings(**values | changes)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.context = Context(self.settings, sender(create_celery(self.settings)))
        self.sweeper = Sweeper(self.context)
        self.sweeper.start()
        self.workers: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}
        self._calm: Bench | None = None

    @property
    def environment(self) -> dict[str, str]:
        values = self.settings.model_dump(mode="json", exclude={"teacher_urls"})
        ours = {f"UNDERSTUDY_{name.upper()}": str(value) for name, value in values.items() if value not in ("", None)}
        urls = ",".join(self.settings.teacher_urls)
        return {**os.environ, **ours, "UNDERSTUDY_TEACHER_URLS": urls, "TMPDIR": str(self.temporary)}

    def worker(self, *queues: str) -> subprocess.Popen[bytes]:
        """The worker of these queues, started where there is none that lives."""
        running = self.workers.get(queues)
        if running is None or running.poll() is not None:
            command = [sys.executable, "-m", "services.orchestrator.worker", "--queues", ",".join(queues)]
            running = subprocess.Popen(command, cwd=ROOT, env=self.environment, start_new_session=True)
            self.workers[queues] = running
        return running

    def annotator(self) -> subprocess.Popen[bytes]:
        return self.worker("control", "annotate")

    def trainer(self) -> subprocess.Popen[bytes]:
        return self.worker("train")

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()

    def queue(self, name: str) -> str:
        """The key under which Redis has the messages of a queue."""
        return f"understudy-{self.context.database.installation()}:{name}"

    def upload(self, rows: str) -> str:
        return Bench.upload(self, rows)  # type: ignore[arg-type]

    def submit(self, rows: str, *, wake: bool = True, **spec: Any) -> Job:
        """A job in the store that the workers share. Two steps of one arm, unless `spec` asks for more."""
        spec = {"recipe": "finetune", "hyperparameters": {"max_steps": 2}, "test_file": self.upload(TEST_ROWS), **spec}
        files = {"training_file": self.upload(rows), "validation_file": self.upload(VALIDATION_ROWS)}
        job = Bench.job(self, **files, spec=spec)  # type: ignore[arg-type]
        self.context.flow.submit(job, first_items(job, self.settings))
        if wake:
            self.sweeper.wake()
        return job

    def get(self, job: Job) -> Job:
        return self.context.jobs.get(job.id)

    def messages(self, job: Job) -> list[str]:
        return Bench.messages(self, job)  # type: ignore[arg-type]

    def states(self, job: Job, phase: Any = "annotate") -> Counter[str]:
        return Counter(item.state for item in self.context.flow.items(job.id, phase))

    def ended(self, job: Job, seconds: float = 60.0) -> Job:
        return wait(lambda: (found := self.get(job)).status in ENDED and found, seconds)

    def check(self, job: Job, rows: str, expected: Status = "succeeded") -> Job:
        """The job ends as it must, its annotations are those of a run without faults, and nothing is left over."""
        if expected == "succeeded":
            self.trainer()
        done = self.ended(job)
        assert done.status == expected, (done.error, self.messages(job))
        if expected == "succeeded":
            self.check_annotations(done, rows)
            fresh = ArtifactStore(self.settings.artifact_root)  # which verifies every checksum again
            assert done.fine_tuned_model is not None
            fresh.folder(done.fine_tuned_model)
        self.check_leftovers(job)
        return done

    def check_annotated(self, job: Job, rows: str) -> None:
        """The same for a job without its training, which takes longer than all that comes before; it is cancelled."""
        wait(lambda: (found := self.get(job)).phase == "train" or found.status in ENDED)
        self.check_annotations(self.get(job), rows)
        self.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))
        self.check(job, rows, "cancelled")

    def check_annotations(self, job: Job, rows: str) -> None:
        results = self.context.flow.results(job.id, "annotate")
        shards = [one["shard"] for one in results]
        assert shards == self.shards_without_faults(rows)
        fresh = ArtifactStore(self.settings.artifact_root)
        annotated = read_annotated(*(fresh.folder(shard) / "shard.parquet" for shard in shards))
        assert job.facts.dataset is not None
        train = read_examples(fresh.folder(job.facts.dataset) / "train.parquet")
        assert [row.example.id for row in annotated] == [row.id for row in train]

    def shards_without_faults(self, rows: str) -> list[str]:
        """The ids of the shards that the rows give in one process where nothing goes wrong: their content's hash."""
        if self._calm is None:
            self._calm = calm_bench(self.folder / "calm", self.settings)
        return shards_of(self._calm, rows)

    def check_leftovers(self, job: Job) -> None:
        held = select(func.count()).where(work_items.c.job_id == job.id, work_items.c.lease_until.is_not(None))
        with self.context.database.read() as sql:
            assert sql.scalar(held) == 0, "a lease is left"
        items = [item.id for phase in PHASES for item in self.context.flow.items(job.id, phase)]
        for left in (
            lambda: [one for one in items if (self.settings.work / one).exists()],
            self.strays,
            self.orphans,
        ):
            deadline = time.monotonic() + 10
            while found := left():
                assert time.monotonic() < deadline, f"left over: {found}"
                time.sleep(0.05)

    def strays(self) -> list[Path]:
        """Half-written files in the store, and what our processes put into the folder for temporary files."""
        parts = list(Path(self.settings.artifact_root).rglob("*.part"))
        # Not ours: the socket of a fork server, in a folder that goes with its process, and torch's cache.
        return parts + [path for path in self.temporary.iterdir() if not path.name.startswith(("pymp-", "torch"))]

    def orphans(self) -> list[psutil.Process]:
        """Processes of this stand that no worker of it has started."""
        known = {os.getpid()}
        for worker in self.workers.values():
            if worker.poll() is None:
                family = psutil.Process(worker.pid)
                known |= {family.pid, *(child.pid for child in family.children(recursive=True))}
        return [process for process in processes_of(self.settings.home) if process.pid not in known]

    def close(self) -> None:
        self.teacher.release()
        for worker in self.workers.values():
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
            worker.kill()
            worker.wait()
        self.sweeper.stop()
        self.context.close()
        if self._calm is not None:
            self._calm.context.close()
        if self._owns_broker:
            self.broker.stop()
        self.teacher.stop()


PHASES: tuple[Any, ...] = ("validate", "preflight", "annotate", "train", "evaluate", "publish")


def processes_of(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("UNDERSTUDY_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def calm_bench(folder: Path, settings: Settings) -> Bench:
    """One process where nothing goes wrong, with the same settings as far as they decide what is annotated."""
    calm = Settings(
        home=folder,
        broker_url=settings.broker_url,
        shard_size=settings.shard_size,
        teacher_max_examples=settings.teacher_max_examples,
    )
    return Bench(calm, FakeTeacher())


def shards_of(bench: Bench, rows: str) -> list[str]:
    """What a job on the rows annotates; its training is left out."""
    files = {"training_file": bench.upload(rows), "validation_file": bench.upload(VALIDATION_ROWS)}
    job = bench.submit(**files, spec={"test_file": bench.upload(TEST_ROWS)})
    done = bench.work(job, until="train")
    assert done.phase == "train", done.error
    shards = [result["shard"] for result in bench.context.flow.results(job.id, "annotate")]
    bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))
    return shards
