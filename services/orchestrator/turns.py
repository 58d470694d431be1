"""Which work runs side by side in one worker: all of it, but for work that has lost its worker before.

A shard that kills its process takes whatever runs beside it along, and nobody can tell which of them it was. From the
second time on each of them runs alone, so that the guilty one is found and the others are done. Knows no work item.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Turns"]

POLL_SECONDS = 0.2


class Turns:
    """The turns of one process's threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self.waiting = 0  # for a turn alone: nobody new may begin before
        self._alone = False

    @contextmanager
    def take(self, *, alone: bool, patience: float, stop: Callable[[], bool]) -> Iterator[bool]:
        """A turn beside others, or `alone`; False where there is none within `patience` seconds, or on `stop`."""
        mine = self._begin(alone, patience, stop)
        try:
            yield mine
        finally:
            if mine:
                self._end()

    def _begin(self, alone: bool, patience: float, stop: Callable[[], bool]) -> bool:
        until = time.monotonic() + patience
        with self._changed:
            self.waiting += alone
            try:
                while not self._free(alone):
                    if stop() or time.monotonic() > until:
                        return False
                    self._changed.wait(POLL_SECONDS)
                self._running += 1
                self._alone = alone
            finally:
                self.waiting -= alone
                self._changed.notify_all()
        return True

    def _free(self, alone: bool) -> bool:
        if alone:
            return self._running == 0
        return not self._alone and not self.waiting

    def _end(self) -> None:
        with self._changed:
            self._running -= 1
            self._alone = False
            self._changed.notify_all()
