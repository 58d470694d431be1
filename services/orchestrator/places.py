"""A bounded number of places for one kind of request that holds a thread of the API for long.

All requests share these threads: without a bound a few dozen of one kind would stop every other. Knows nothing of what
is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from understudy.errors import Overloaded

__all__ = ["Places"]

RETRY_SECONDS = 5.0


class Places:
    """`what` is how a message calls those that hold a place."""

    def __init__(self, count: int, what: str) -> None:
        self._free = threading.BoundedSemaphore(count)
        self._refusal = f"{count} {what} are at work: ask again in a moment"

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place. Raises Overloaded where none is free."""
        if not self._free.acquire(blocking=False):
            raise Overloaded(self._refusal, retry_after=RETRY_SECONDS)
        try:
            yield
        finally:
            self._free.release()
