"""A real teacher service on this machine, and callers in a process of their own that ask it over HTTP."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from peers.pipe import Pipe
from peers.rounds import Cost
from understudy.client import TeacherClient
from understudy.ports import free_ports
from understudy.process import Process
from understudy.schemas import AttributionExample

__all__ = ["Callers", "Service"]

HOST = "127.0.0.1"
READY_SECONDS = 120.0
ROOT = Path(__file__).parents[2]


class Service:
    """The service's process: one thread for the model, no cache, everything else as it comes."""

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self._process = psutil.Process(pid)

    @classmethod
    @contextmanager
    def running(cls, folder: Path, settings: Mapping[str, str]) -> Iterator[Service]:
        """Start one with that model, wait until it is ready, and end it with the block."""
        port = free_ports(HOST, {"teacher": 0})["teacher"]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("UNDERSTUDY_")},
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "UNDERSTUDY_TEACHER_HOST": HOST,
            "UNDERSTUDY_TEACHER_PORT": str(port),
            "UNDERSTUDY_TEACHER_MODEL": str(folder),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            **settings,
        }
        process = Process("teacher", [sys.executable, "-m", "services.teacher"], environment, lambda *_: None)
        process.start()
        try:
            url = f"http://{HOST}:{port}"
            _wait(process, url)
            yield cls(url, process.pid)
        finally:
            process.terminate()
            process.end(time.monotonic() + 20)

    def cpu_seconds(self) -> float:
        """Processor time of the service so far."""
        times = self._process.cpu_times()
        return times.user + times.system


class Callers:
    """The process of the callers."""

    def __init__(self, service: Service, examples: Sequence[AttributionExample], options: Mapping[str, Any]) -> None:
        self._service = service
        self._pipe = Pipe("callers.py")
        rows = [example.model_dump(exclude_none=True) for example in examples]
        self._pipe.tell({"url": service.url, "examples": rows, "options": dict(options)})

    def __enter__(self) -> Callers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()

    def ask(self, callers: int, texts: int) -> Cost:
        """All examples, asked by so many callers at once, so many texts a request: the service's time and theirs."""
        before = self._service.cpu_seconds()
        answer = self._pipe.tell({"callers": callers, "texts": texts})
        if "error" in answer:
            raise RuntimeError(f"the service failed a caller: {answer['error']}")
        return Cost(self._service.cpu_seconds() - before, answer["seconds"])


def _wait(process: Process, url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with TeacherClient(url, timeout=5) as teacher:
        while not teacher.ready():
            code = process.poll()
            if code is not None or time.monotonic() > deadline:
                last = "\n  ".join(process.tail)
                raise RuntimeError(f"the teacher service is not ready (code {code}); its last lines:\n  {last}")
            time.sleep(0.2)
