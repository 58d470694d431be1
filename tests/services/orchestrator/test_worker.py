"""Real worker processes on a real Redis: killed, cancelled, paused, shut down, and cut off from the broker."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis

from services.orchestrator.broker import TASK, create_celery, sender
from services.orchestrator.context import Context
from services.orchestrator.dispatch import Sweeper
from services.orchestrator.jobs import ENDED, Event, Job
from services.orchestrator.pipeline import first_items
from services.orchestrator.settings import Settings
from understudy.data.parquet import read_annotated, read_examples
from understudy.stack import broker_command
from understudy.testing import FakeTeacher

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[3]


def wait(ready: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


class HeldTeacher:
    """The fake teacher on a real port. After `hold(n)` it answers n requests for work, and lets the next ones wait."""

    def __init__(self) -> None:
        self.fake = FakeTeacher()
        self.waiting = 0
        self._changed = threading.Condition()
        self._left: int | None = None
        teacher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                teacher._take_turn()
                self._answer()

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                url = f"http://teacher{self.path}"
                answer = teacher.fake.handle_request(httpx.Request(self.command, url, content=body))
                try:
                    self.send_response(answer.status_code)
                    self.end_headers()
                    self.wfile.write(answer.read())
                except BrokenPipeError:
                    pass  # the worker that asked was killed

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def hold(self, after: int) -> None:
        with self._changed:
            self._left, self.waiting = after, 0

    def release(self) -> None:
        with self._changed:
            self._left = None
            self._changed.notify_all()

    def _take_turn(self) -> None:
        with self._changed:
            if self._left == 0:
                self.waiting += 1
                self._changed.wait_for(lambda: self._left is None, 60)
            elif self._left is not None:
                self._left -= 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


class Broker:
    """Redis on a private socket, which a test can stop and start again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "r.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
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


class Stand:
    """Redis, a teacher, the API's side of the store with its sweeper, and workers that a test starts and kills."""

    def __init__(self, folder: Path) -> None:
        self.teacher = HeldTeacher()
        self.broker = Broker(folder)
        self.broker.start()
        self.settings = Settings(
            home=folder / "home",
            broker_url=f"redis+socket://{self.broker.socket}",
            teacher_urls=(self.teacher.url,),
            shard_size=8,
            teacher_max_examples=4,
            lease_seconds=1.5,
            heartbeat_seconds=0.1,
            retry_after=0.1,
            sweep_seconds=0.1,
            resend_seconds=2.0,
        )
        self.context = Context(self.settings, sender(create_celery(self.settings)))
        self.sweeper = Sweeper(self.context)
        self.sweeper.start()
        self.workers: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}

    def worker(self, *queues: str) -> subprocess.Popen[bytes]:
        """The worker of these queues, started where there is none that lives."""
        running = self.workers.get(queues)
        if running is None or running.poll() is not None:
            values = self.settings.model_dump(mode="json", exclude={"teacher_urls"})
            environment = {f"UNDERSTUDY_{name.upper()}": str(value) for name, value in values.items() if value != ""}
            environment |= {"UNDERSTUDY_TEACHER_URLS": self.teacher.url}
            command = [sys.executable, "-m", "services.orchestrator.worker", "--queues", ",".join(queues)]
            running = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, start_new_session=True)
            self.workers[queues] = running
        return running

    def annotator(self) -> subprocess.Popen[bytes]:
        return self.worker("control", "annotate")

    def trainer(self) -> subprocess.Popen[bytes]:
        return self.worker("train")

    def submit(self, bench: Any, rows: str, **spec: Any) -> Job:
        """A job in the store that the workers share."""
        bench.context = self.context
        job = bench.job(training_file=bench.upload(rows), spec=spec)
        self.context.flow.submit(job, first_items(job, self.settings))
        self.sweeper.wake()
        return job

    def get(self, job: Job) -> Job:
        return self.context.jobs.get(job.id)

    def close(self) -> None:
        self.teacher.release()
        for worker in self.workers.values():
            worker.kill()
            worker.wait()
        self.sweeper.stop()
        self.context.close()
        self.broker.stop()
        self.teacher.server.shutdown()
        self.teacher.server.server_close()


@pytest.fixture(scope="module")
def shared_stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    one = Stand(tmp_path_factory.mktemp("stand"))
    yield one
    one.close()


@pytest.fixture
def stand(shared_stand: Stand) -> Iterator[Stand]:
    """The stand with both workers alive; what a test leaves unfinished is cancelled."""
    shared_stand.annotator()
    shared_stand.trainer()
    yield shared_stand
    shared_stand.teacher.release()
    for job in shared_stand.context.jobs.page(None, 100)[0]:
        if job.status not in ENDED:
            shared_stand.context.flow.end(job.id, "cancelled", Event(message="the test is over"))


class _Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def training_children(worker: subprocess.Popen[bytes]) -> list[int]:
    """The processes that lead a group of their own below a worker: its trainings."""
    offspring = psutil.Process(worker.pid).children(recursive=True)
    return [child.pid for child in offspring if os.getpgid(child.pid) == child.pid]


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_job_that_is_submitted_while_the_broker_is_away_runs_once_it_is_back(
    stand: Stand, bench: Any, rows: Any
) -> None:
    first = stand.submit(bench, rows(60))
    wait(lambda: stand.get(first).phase != "validate")
    stand.broker.stop()
    job = stand.submit(bench, rows(70))
    time.sleep(0.5)
    assert stand.get(job).phase == "validate"
    stand.broker.start()
    wait(lambda: stand.get(job).phase == "train")
    wait(lambda: stand.get(first).phase == "train")


def test_items_that_end_while_the_broker_is_away_leave_their_slots_to_others(
    stand: Stand, bench: Any, rows: Any
) -> None:
    stand.teacher.hold(after=4)  # preflight's 16 examples
    job = stand.submit(bench, rows(60))
    wait(lambda: stand.teacher.waiting == 2)  # both threads of the worker are taken
    stand.broker.stop()
    stand.teacher.release()
    wait(lambda: [item.state for item in stand.context.flow.items(job.id, "annotate")].count("done") == 2)
    time.sleep(0.5)  # neither message can be acknowledged
    stand.broker.start()
    wait(lambda: stand.get(job).phase == "train")


def test_a_worker_takes_no_message_that_it_has_no_thread_for(stand: Stand, bench: Any, rows: Any) -> None:
    stand.teacher.hold(after=4)  # preflight's 16 examples
    job = stand.submit(bench, rows(60))
    wait(lambda: stand.teacher.waiting == 2)
    time.sleep(0.3)
    queue = redis.Redis(unix_socket_path=str(stand.broker.socket))
    assert queue.llen("annotate") == len(stand.context.flow.items(job.id, "annotate")) - 2
    queue.close()


def test_a_pickled_message_is_refused_and_the_worker_lives(stand: Stand, bench: Any, rows: Any) -> None:
    opened = stand.settings.home / "opened"
    message = {
        "body": base64.b64encode(pickle.dumps(_Trap(str(opened)))).decode(),
        "content-encoding": "binary",
        "content-type": "application/x-python-serialize",
        "headers": {"task": TASK, "id": "1", "lang": "py"},
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": "control"},
            "delivery_tag": "1",
            "body_encoding": "base64",
        },
    }
    worker = stand.annotator()
    queue = redis.Redis(unix_socket_path=str(stand.broker.socket))
    queue.lpush("control", json.dumps(message))
    wait(lambda: not queue.llen("control"))
    job = stand.submit(bench, rows(60))
    wait(lambda: stand.get(job).phase == "train")
    assert worker.poll() is None
    assert not opened.exists()
    queue.close()


def test_a_message_that_comes_twice_is_worked_on_once(stand: Stand, bench: Any, rows: Any) -> None:
    stand.teacher.hold(after=0)
    job = stand.submit(bench, rows(60))
    wait(lambda: stand.teacher.waiting)  # preflight runs
    (item,) = stand.context.flow.items(job.id, "preflight")
    for _ in range(5):
        stand.context.send(item.id, "control")
    stand.teacher.release()
    wait(lambda: stand.get(job).phase == "train")
    (item,) = stand.context.flow.items(job.id, "preflight")
    assert (item.attempts, item.token) == (1, 1)


def test_cancelling_ends_the_trainings_that_run_side_by_side(stand: Stand, bench: Any, rows: Any) -> None:
    worker = stand.trainer()
    job = stand.submit(bench, rows(60), recipe="rationale_gate", hyperparameters={"max_steps": 1_000_000})
    children = wait(lambda: len(found := training_children(worker)) == 2 and found)
    wait(lambda: any("step" in message for message in bench.messages(job)))
    stand.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))
    wait(lambda: all(map(is_gone, children)), 10)
    wait(lambda: not list(stand.settings.work.glob("*/checkpoints")))
    assert not any("libtorch" in one.path for one in psutil.Process(worker.pid).memory_maps())
    assert worker.poll() is None


def test_a_worker_that_is_told_to_end_gives_its_training_back_and_the_next_goes_on_with_it(
    stand: Stand, bench: Any, rows: Any
) -> None:
    worker = stand.trainer()
    job = stand.submit(bench, rows(60), recipe="finetune", hyperparameters={"max_steps": 1_000_000})
    wait(lambda: list(stand.settings.work.glob("*/checkpoints/checkpoint-*/trainer_state.json")))
    children = training_children(worker)
    worker.terminate()
    worker.wait(10)
    assert all(map(is_gone, children))
    (item,) = stand.context.flow.items(job.id, "train")
    assert (item.state, item.attempts) == ("pending", 0)
    step = max(item.completed, 1)
    stand.trainer()
    wait(lambda: stand.context.flow.items(job.id, "train")[0].state == "running")
    wait(lambda: stand.context.flow.items(job.id, "train")[0].completed > step)


def test_a_worker_killed_in_the_middle_of_a_shard_costs_no_row_and_doubles_none(
    stand: Stand, bench: Any, rows: Any
) -> None:
    stand.teacher.hold(
        after=4 + 2 + 1
    )  # the teacher takes 4 examples at once: preflight's 16, a shard of 8, and a half
    job = stand.submit(bench, rows(60), recipe="finetune", hyperparameters={"max_steps": 2})
    wait(lambda: stand.teacher.waiting)
    worker = stand.annotator()
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    held = [item for item in stand.context.flow.items(job.id, "annotate") if item.state == "running"]
    assert held
    stand.teacher.release()
    stand.annotator()
    done = wait(lambda: (found := stand.get(job)).status in ENDED and found)
    assert done.status == "succeeded", done.error
    results = stand.context.flow.results(job.id, "annotate")
    shards = [stand.context.artifacts.folder(one["shard"]) / "shard.parquet" for one in results]
    annotated = Counter(row.example.id for row in read_annotated(*shards))
    train = read_examples(stand.context.artifacts.folder(done.facts.dataset) / "train.parquet")
    assert annotated == Counter(row.id for row in train)
    attempts = {item.index: item.attempts for item in stand.context.flow.items(job.id, "annotate")}
    assert all(attempts[item.index] == 2 for item in held)
    assert any("has not been heard of" in message for message in bench.messages(job))
    assert stand.context.artifacts.resolve("production") == done.fine_tuned_model
