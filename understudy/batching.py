"""Who shares a forward pass, and who waits for the model: length-sorted batches and the one thread a model runs on.

Knows nothing of torch: a batch is a list of positions, work is a function.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from understudy.errors import Overloaded

__all__ = ["ModelThread", "plan_batches"]

P = ParamSpec("P")
T = TypeVar("T")


def plan_batches(lengths: Sequence[int], max_padded_tokens: int) -> list[list[int]]:
    """Group positions so that rows x longest row stays within the budget, with as little padding as possible.

    Sorted by length, longest first, so that running out of memory shows on the first batch and not on the last. A row
    that is longer than the whole budget gets a batch of its own.
    """
    batches: list[list[int]] = []
    longest = 0
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or (len(batches[-1]) + 1) * longest > max_padded_tokens:
            batches.append([])
            longest = max(1, lengths[position])
        batches[-1].append(position)
    return batches


class ModelThread:
    """One thread that runs all work of one device, in order of arrival, with a bounded queue.

    `limit` callers may wait or run; one more is refused at once with Overloaded, whose `retry_after` is the time that
    the queue takes to drain at its recent pace. Work that nobody waits for any more is dropped before it starts.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting = 0
        self._seconds = 0.05  # running mean of one call; a guess until the first one ends
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._open = True

    @property
    def alive(self) -> bool:
        return self._open

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on the model's thread. Raises Overloaded when the queue is full, or what `work` raises."""
        if self.waiting >= self.limit:
            wait = max(1.0, self.waiting * self._seconds)
            raise Overloaded(
                f"{self.waiting} requests are waiting already: try again in {wait:.0f} s", retry_after=wait
            )
        with self._lock:
            self.waiting += 1
        try:
            return await asyncio.wrap_future(self._pool.submit(self._timed, partial(work, *args, **kwargs)))
        finally:
            with self._lock:
                self.waiting -= 1

    def close(self) -> None:
        """Let the running call end, drop those that have not started, and stop the thread."""
        self._open = False
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _timed(self, work: Callable[[], T]) -> T:
        started = time.monotonic()
        try:
            return work()
        finally:
            self._seconds += 0.2 * (time.monotonic() - started - self._seconds)
