"""One process of the local stack: started, followed line by line, ended with everything that it started itself."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

import psutil

__all__ = ["Echo", "Process"]

Echo = Callable[[str, str], None]
"""Receives (process name, line) for each line that a process writes."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: a forked child must not load anything


def _end_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the stack is gone, also where it was killed and could end nothing itself.

    Only Linux can do that. It counts from the thread that started the process, which therefore is the stack's own.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """One process in a group of its own, so that Ctrl-C reaches the stack alone, which then ends all in order."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], write: Echo) -> None:
        self.name = name
        self.restarts = 0
        self.tail: deque[str] = deque(maxlen=12)
        self._command = command
        self._environment = dict(environment)
        self._write = write
        self._started = 0.0
        self._running: subprocess.Popen[str] | None = None
        self._follower = threading.Thread()
        self._offspring: list[psutil.Process] = []

    def start(self) -> None:
        self._started = time.monotonic()
        self._running = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self._follower = threading.Thread(target=self._follow, args=(self._running,), daemon=True)
        self._follower.start()

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.pid

    @property
    def age(self) -> float:
        """Seconds since it was started last."""
        return time.monotonic() - self._started

    def poll(self) -> int | None:
        return self._running.poll() if self._running else None

    def terminate(self) -> None:
        if self._running is None or self._running.poll() is not None:
            return
        with suppress(psutil.NoSuchProcess):
            self._offspring = psutil.Process(self._running.pid).children(recursive=True)
        self._running.terminate()

    def end(self, deadline: float) -> None:
        """Wait until the deadline, then kill the process and whatever it has left behind."""
        if self._running is None:
            return
        try:
            self._running.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._running.pid, signal.SIGKILL)
            self._running.wait()
        for child in self._offspring:
            with suppress(psutil.NoSuchProcess):
                child.kill()  # psutil compares start times, so a process id that was given anew is not touched
        self._follower.join(1)  # the last lines belong to the log

    def _follow(self, running: subprocess.Popen[str]) -> None:
        assert running.stdout is not None
        with running.stdout as lines:
            for line in lines:
                self.tail.append(line.rstrip())
                self._write(self.name, line.rstrip())
