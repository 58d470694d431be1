"""Hearing of a job as it happens: a thread that listens to its stream of events, for somebody who must not wait.

Where the service streams nothing, or the connection is away, `deaf` says so and its user polls meanwhile. A broken
stream is taken up again behind the last event that it told.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from understudy.client import OrchestratorClient, Told
from understudy.errors import Overloaded, Unavailable, UnderstudyError

__all__ = ["Listener", "brought_up_to_date"]

RECONNECT_SECONDS = 2.0


class Listener:
    """`with Listener(client, job_id) as listener:` listens until the block or the job has ended."""

    def __init__(self, client: OrchestratorClient, job_id: str) -> None:
        self.deaf = True
        """Nothing is heard now: ask the service instead."""
        self._client = client
        self._job_id = job_id
        self._told: queue.SimpleQueue[Told] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name=f"listener-{job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()  # not joined: it may be waiting for a word from the service

    def heard(self, seconds: float) -> list[Told]:
        """What was told since, after up to so many seconds of waiting for the first word."""
        found: list[Told] = []
        with suppress(queue.Empty):
            found.append(self._told.get(timeout=seconds) if seconds > 0 else self._told.get_nowait())
            while True:
                found.append(self._told.get_nowait())
        return found

    def _listen(self) -> None:
        try:
            self._listen_on()
        finally:
            self.deaf = True

    def _listen_on(self) -> None:
        last: str | None = None
        while not self._stop.is_set():
            try:
                for told in self._client.stream(self._job_id, last):
                    if self._stop.is_set():
                        return
                    last = told.id or last
                    self.deaf = False
                    self._told.put(told)
                return
            except (Overloaded, Unavailable):
                self.deaf = True
                self._stop.wait(RECONNECT_SECONDS)
            except UnderstudyError:  # there is no stream for us; whoever polls is told why, if something is wrong
                return
            except RuntimeError:
                if not self._stop.is_set():  # else the client was closed under us, which is how we are ended
                    raise


def brought_up_to_date(job: Mapping[str, Any], heard: list[Told]) -> Mapping[str, Any] | None:
    """The job as it is after what was heard; None where that says only that it is another one by now: ask for it."""
    for told in heard:
        if told.name == "done":
            return told.data
        if told.name == "progress":
            now = told.data
            running = [one for one in job["phases"] if one["phase"] == now["phase"] and one["state"] == "running"]
            if not running or (now["status"], now["phase"]) != (job["status"], job["phase"]):
                return _last_word(heard)
            progress = {name: value for name, value in now.items() if name != "status"}
            phases = [{**one, **progress} if one in running else one for one in job["phases"]]
            job = {**job, "progress": progress, "phases": phases}
        elif told.data.get("type") != "metrics":
            return _last_word(heard)
    return job


def _last_word(heard: list[Told]) -> Mapping[str, Any] | None:
    return heard[-1].data if heard[-1].name == "done" else None
