"""What a worker shows to the system that runs it: files that say that it lives and is connected, and an end when idle.

A worker answers no request, so probes look at its files. `alive` is touched every few seconds for as long as the
process runs and its sweeper lives; a broker or database that is away changes nothing about it, because starting the
worker anew would not bring them back. `ready` is there while the worker takes messages. Knows no queue and no work.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

__all__ = ["Signs"]

log = structlog.get_logger()

BEAT_SECONDS = 5.0


class Signs:
    """`folder` is where the files are, None for none. After `idle_exit` seconds without work the process gets SIGTERM.

    They count from when the worker is ready: before, nothing is there that would end it in order. A message that comes
    in that very moment is lost to nobody: a worker that ends gives its items back.
    """

    def __init__(
        self,
        folder: Path | None = None,
        idle_exit: float | None = None,
        *,
        sound: Callable[[], bool] = lambda: True,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self._folder = folder
        self._idle_exit = idle_exit
        self._sound = sound
        self._beat_seconds = min(beat_seconds, idle_exit or beat_seconds)
        self._lock = threading.Lock()
        self._busy, self._since, self._ready = 0, time.monotonic(), False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="signs", daemon=True)

    def start(self) -> None:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.ready(False)  # of a process before this one
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def ready(self, is_so: bool = True) -> None:
        """The worker takes messages from now on, or no longer."""
        with self._lock:
            self._since, self._ready = time.monotonic(), is_so
        if self._folder is None:
            return
        file = self._folder / "ready"
        file.touch() if is_so else file.unlink(missing_ok=True)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Somebody works on an item meanwhile: the worker is not idle."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._busy += change
            self._since = time.monotonic()

    def _idle_seconds(self) -> float:
        with self._lock:
            return time.monotonic() - self._since if self._ready and not self._busy else 0.0

    def _run(self) -> None:
        told = False
        while True:
            if self._folder is not None and self._sound():
                (self._folder / "alive").touch()
            if self._idle_exit is not None and not told and self._idle_seconds() >= self._idle_exit:
                log.info("worker_idle", seconds=self._idle_exit)
                told = True
                os.kill(os.getpid(), signal.SIGTERM)
            if self._stop.wait(self._beat_seconds):
                return
