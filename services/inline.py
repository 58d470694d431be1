"""The services in one process, for a script or a notebook: `with inline.running(home) as place:`.

The orchestrator's and the teacher's own applications listen on loopback ports that nobody else knows the key of, and
threads take the work items in place of Celery's workers. What a job is, is the orchestrator's business: everything goes
through its API, as it does with a stack of processes. Trainings run in children of this process. The library reaches
this module by its name, because it imports no service (decision 0012).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import structlog
import uvicorn
from fastapi import FastAPI

from services.orchestrator.app import create_app as create_orchestrator
from services.orchestrator.child import cool, warm
from services.orchestrator.context import Context
from services.orchestrator.dispatch import sweep
from services.orchestrator.execute import execute
from services.orchestrator.jobs import Event, Queue
from services.orchestrator.settings import Settings
from services.teacher.settings import Settings as TeacherSettings
from understudy.errors import Conflict, Unavailable
from understudy.keys import new_key
from understudy.stack import hold_home

__all__ = ["MADE_BY", "Place", "running"]

MADE_BY = {"made_by": "understudy.distill"}
"""The metadata of a job that lives no longer than its process: one that was killed leaves it unfinished behind."""

HOST = "127.0.0.1"

log = structlog.get_logger()
_turn = threading.Lock()


@dataclass(frozen=True)
class Place:
    """Where the orchestrator listens, and the key to it."""

    url: str
    key: str = field(repr=False)
    log: Path


@contextmanager
def running(
    home: Path,
    *,
    workers: int | None = None,
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Iterator[Place]:
    """Everything that a job needs, until the block ends; then no thread, child or port of it is left.

    `home` holds what is written, as a stack's does. `workers` are work items that run at once (default: one a core, at
    most four, as in the local stack); `device` and `precision` are the teacher's. A job of ours that an earlier process
    left unfinished in `home` is cancelled. Raises Conflict while a stack or another process uses `home`, or another
    thread is in such a block, and InvalidRequest where it cannot be written or `device` is not there.
    """
    count = workers or max(1, min(4, os.cpu_count() or 1))
    key = new_key()
    with ExitStack() as closing:
        closing.enter_context(_alone())
        closing.enter_context(hold_home(home))
        place = home / "understudy.log"
        closing.enter_context(_logged(place))
        closing.enter_context(_fork_server())  # imports torch while this process does
        teacher = closing.enter_context(_teacher(home, key, device, precision))
        settings = _settings(home, teacher, key)
        hands = closing.enter_context(_Workers(settings, count))
        yield Place(closing.enter_context(_listening(create_orchestrator(settings, hands.send))), key, place)


def _settings(home: Path, teacher: str, key: str) -> Settings:
    """Whatever the environment says of another installation."""
    return Settings(
        home=home,
        database_url="",
        artifacts=str(home.resolve() / "artifacts"),
        broker_url="redis://nowhere",  # nothing is sent there
        teacher_urls=(teacher,),
        teacher_api_key=key,
        api_keys=(key,),
        api_keys_file=None,
        sweep_seconds=0.5,
        gc=False,
    )


@contextmanager
def _teacher(home: Path, key: str, device: str, precision: Literal["float32", "bfloat16"]) -> Iterator[str]:
    from services.teacher.app import create_app  # torch takes seconds, and what is wrong above must not
    from understudy.models.device import pick_device

    pick_device(device)
    settings = TeacherSettings(
        artifacts=str(home.resolve() / "artifacts"),
        api_keys=(key,),
        api_keys_file=None,
        model=None,
        allowed_models=("*",),
        device=device,
        precision=precision,
    )
    with _listening(create_app(settings)) as url:
        yield url


@contextmanager
def _listening(app: FastAPI) -> Iterator[str]:
    """The application behind a real server, in a thread of its own, on a free port of this machine."""
    server = uvicorn.Server(
        uvicorn.Config(app, HOST, 0, log_config=None, log_level="warning", timeout_graceful_shutdown=2, lifespan="on")
    )
    thread = threading.Thread(target=server.run, name="understudy-http", daemon=True)
    thread.start()
    try:
        while not server.started:
            thread.join(0.02)
            if not thread.is_alive():
                raise Unavailable(f"{app.title} could not start: the log says why")
        yield f"http://{HOST}:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        app.state.draining = True
        server.should_exit = True
        thread.join()


class _Workers:
    """Takes each item that is sent, as a worker's process does: executes it, and moves the jobs on."""

    def __init__(self, settings: Settings, count: int) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="understudy-worker")
        self._stopping = threading.Event()
        self._name = f"{socket.gethostname()}-{os.getpid()}"

    def __enter__(self) -> _Workers:
        self._context = Context(self._settings, self.send)
        for job in self._context.jobs.unfinished():
            if (job.metadata or {}).items() >= MADE_BY.items():
                event = Event(message="The process that made the job has ended", level="warn")
                self._context.flow.end(job.id, "cancelled", event)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()  # a training ends now, and its item goes back
        self._pool.shutdown(cancel_futures=True)
        self._context.close()

    def send(self, item_id: str, _: Queue) -> None:
        if self._stopping.is_set():
            raise Unavailable("the workers of this process have ended")
        self._pool.submit(self._work, item_id)

    def _work(self, item_id: str) -> None:
        try:
            if execute(self._context, item_id, self._name, self._stopping):
                sweep(self._context)
        except Exception:  # nobody reads a future's error; the sweeper sends the item again
            log.exception("defect", item=item_id)


@contextmanager
def _alone() -> Iterator[None]:
    """The fork server and the log are the process's: one job at a time uses them."""
    if not _turn.acquire(blocking=False):
        raise Conflict("another distillation runs in this process: wait for its end, or start a second process")
    try:
        yield
    finally:
        _turn.release()


@contextmanager
def _fork_server() -> Iterator[None]:
    ours = warm()
    try:
        yield
    finally:
        if ours:
            cool()


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Our lines go to a file and not between the caller's; a program that has chosen how to log keeps its choice."""
    if structlog.is_configured():
        yield
        return
    with path.open("a", encoding="utf-8", buffering=1) as file:
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
                structlog.processors.format_exc_info,
                structlog.dev.ConsoleRenderer(colors=False, pad_event_to=24),
            ],
            logger_factory=structlog.WriteLoggerFactory(file=file),
        )
        try:
            yield
        finally:
            structlog.reset_defaults()
