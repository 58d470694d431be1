"""Processes that serve one model folder on this machine, ours and the peers', and the callers that ask them.

The peers live in a virtual environment of their own, whose Python is given; here they are only started.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from peers.pipe import Pipe
from understudy.artifacts import ArtifactStore
from understudy.ports import free_ports
from understudy.process import Process

__all__ = ["Asked", "Askers", "Server", "bentoml", "litserve", "ours"]

HOST = "127.0.0.1"
READY_SECONDS = 120.0
HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Server:
    """Something that answers at a port. `bodies` are requests for one text each."""

    name: str
    port: int
    path: str
    bodies: tuple[str, ...]
    processes: tuple[psutil.Process, ...]

    def memory(self) -> int:
        """Resident bytes of all its processes."""
        return sum(process.memory_info().rss for process in self.processes)

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)

    def sleep(self) -> None:
        """Take no processor time, until `wake`: what waits for requests may poll."""
        for process in self.processes:
            process.suspend()

    def wake(self) -> None:
        for process in reversed(self.processes):
            process.resume()


@contextmanager
def ours(
    folder: Path, engine: str, texts: Sequence[str], settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """The student service, with one thread for the model and everything else as it comes."""
    store = ArtifactStore(folder.parent / "store")
    store.set_alias("production", store.publish("model", folder).id)
    port = _port()
    environment = {
        "UNDERSTUDY_ARTIFACTS": str(folder.parent / "store"),
        "UNDERSTUDY_STUDENT_HOST": HOST,
        "UNDERSTUDY_STUDENT_PORT": str(port),
        "UNDERSTUDY_STUDENT_ENGINE": engine,
        "UNDERSTUDY_STUDENT_DEVICE": "cpu",
        **(settings or {}),
    }
    bodies = [{"inputs": [text], "explain": False} for text in texts]
    with _running("ours", [sys.executable, "-m", "services.student"], environment, port, "/readyz") as processes:
        yield Server("ours", port, "/v1/predictions", _dumped(bodies), processes)


@contextmanager
def litserve(
    python: Path, folder: Path, engine: str, texts: Sequence[str], *, batch: int, timeout: float, fast_queue: bool
) -> Iterator[Server]:
    port = _port()
    options = [str(folder), engine, str(port), str(batch), str(timeout), str(int(fast_queue))]
    command = [str(python), str(HERE / "litserve_peer.py"), *options]
    with _running("litserve", command, {}, port, "/health") as processes:
        yield Server("litserve", port, "/predict", _dumped([{"input": text} for text in texts]), processes)


@contextmanager
def bentoml(
    python: Path, folder: Path, engine: str, texts: Sequence[str], *, batch: int, latency_ms: int
) -> Iterator[Server]:
    port = _port()
    command = [str(python), "-m", "bentoml", "serve", "bentoml_peer:Student", "--working-dir", str(HERE)]
    environment = {
        "STUDENT_FOLDER": str(folder),
        "STUDENT_ENGINE": engine,
        "STUDENT_BATCH": str(batch),
        "STUDENT_LATENCY_MS": str(latency_ms),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(folder.parent / "bentoml"),
    }
    command += ["--host", HOST, "--port", str(port)]
    with _running("bentoml", command, environment, port, "/readyz") as processes:
        bodies = [{"inputs": [{"input": text}]} for text in texts]
        yield Server("bentoml", port, "/predict", _dumped(bodies), processes)


@dataclass(frozen=True)
class Asked:
    """What the callers found: seconds of all, milliseconds of each request that was answered, and every status."""

    seconds: float
    milliseconds: tuple[float, ...]
    statuses: Mapping[str, int]

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return len(self.milliseconds) / self.seconds

    def percentile(self, share: float) -> float:
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Askers:
    """The process of the callers."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._pipe = Pipe("askers.py")
        self._pipe.tell({one.name: {"port": one.port, "path": one.path, "bodies": one.bodies} for one in servers})

    def __enter__(self) -> Askers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()

    def in_turn(self, server: Server, callers: int, requests: int, *, first: int = 0) -> Asked:
        """So many callers, each with one request at a time, of the bodies from the `first` on, again and again.

        Raises RuntimeError where one is not answered with 200.
        """
        found = self._ask({"server": server.name, "callers": callers, "requests": requests, "first": first})
        if set(found.statuses) != {"200"}:
            raise RuntimeError(f"{server.name} failed callers: {dict(found.statuses)}")
        return found

    def arriving(self, server: Server, rate: float, seconds: float) -> Asked:
        """Requests that arrive by chance, at so many a second, whether the last ones are answered or not."""
        return self._ask({"server": server.name, "rate": rate, "seconds": seconds})

    def _ask(self, message: Mapping[str, Any]) -> Asked:
        found = self._pipe.tell(message)
        return Asked(found["seconds"], tuple(found["milliseconds"]), found["statuses"])


@contextmanager
def _running(
    name: str, command: list[str], settings: Mapping[str, str], port: int, ready: str
) -> Iterator[tuple[psutil.Process, ...]]:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("UNDERSTUDY_")},
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        **settings,
    }
    process = Process(name, command, environment, lambda *_: None)
    process.start()
    try:
        _wait(process, name, f"http://{HOST}:{port}{ready}")
        first = psutil.Process(process.pid)
        yield (first, *first.children(recursive=True))
    finally:
        with suppress(psutil.Error):
            for one in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
                one.resume()
        process.terminate()
        process.end(time.monotonic() + 20)


def _wait(process: Process, name: str, url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with httpx.Client(timeout=5, trust_env=False) as client:
        while True:
            with suppress(httpx.HTTPError):
                if client.get(url).status_code == 200:
                    return
            code = process.poll()
            if code is not None or time.monotonic() > deadline:
                last = "\n  ".join(process.tail)
                raise RuntimeError(f"{name} is not ready (code {code}); its last lines:\n  {last}")
            time.sleep(0.2)


def _port() -> int:
    return free_ports(HOST, {"server": 0})["server"]


def _dumped(bodies: Sequence[Any]) -> tuple[str, ...]:
    return tuple(json.dumps(body) for body in bodies)
