"""Several addresses of one service: which is asked next, how many calls each gets at once, and when one is left alone.

The least busy address is asked. Each has a number of calls that it takes at once, which grows by one when all of them
were used and went well, and is halved when it refuses or takes too long (additive increase, multiplicative decrease,
as TCP does it). An address that failed rests, longer each time; after some failures in a row a single call tries it
before others follow (a circuit breaker). Knows nothing of what is asked.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import httpx
import structlog

from services.orchestrator.calls import Check
from understudy.errors import Overloaded, Unavailable, UnderstudyError

__all__ = ["Pool"]

log = structlog.get_logger()

C = TypeVar("C")
R = TypeVar("R")

FIRST_REST, LONGEST_REST = 0.2, 10.0
TRIP = 5
"""Failures in a row after which an address is tried by one call at a time."""
FIRST_LIMIT, HIGHEST_LIMIT = 4.0, 256.0
POLL_SECONDS = 0.1


class _Address(Generic[C]):
    """One address, guarded by the pool's lock. Times are of `time.monotonic`, which nobody sets back."""

    def __init__(self, client: C) -> None:
        self.client = client
        self.busy = 0
        self.limit = FIRST_LIMIT
        self.failures = 0
        self.rests_until = 0.0
        self.cut_at = 0.0
        self.order = 0
        self.last: UnderstudyError | None = None

    @property
    def tripped(self) -> bool:
        return self.failures >= TRIP

    @property
    def slots(self) -> int:
        return 1 if self.tripped else int(self.limit)

    def free(self, now: float) -> bool:
        return now >= self.rests_until and self.busy < self.slots

    def went_well(self) -> None:
        if self.busy >= self.slots:
            self.limit = min(HIGHEST_LIMIT, self.limit + 1 / self.limit)
        self.failures, self.last = 0, None

    def went_wrong(self, error: UnderstudyError, started: float) -> None:
        now = time.monotonic()
        full = isinstance(error, Overloaded) or isinstance(error.__cause__, httpx.TimeoutException)
        if full and started >= self.cut_at:  # calls that were refused together are one sign of too many
            self.limit, self.cut_at = max(1.0, self.limit / 2), now
        # Full jitter: workers that were refused together must not come back together.
        rest = (error.retry_after or 0) + random.uniform(0, min(LONGEST_REST, FIRST_REST * 2**self.failures))
        self.rests_until = max(self.rests_until, now + rest)
        self.last = error
        if not isinstance(error, Overloaded):  # one that says how busy it is works
            self.failures += 1


class Pool(Generic[C]):
    def __init__(self, clients: Sequence[C], patience: float) -> None:
        self._addresses = [_Address(client) for client in clients]
        self._patience = patience
        self._changed = threading.Condition()
        self._turn = 0

    def call(self, ask: Callable[[C], R], check: Check) -> R:
        """Ask one address after another until one answers or patience ends; then raise what was said last.

        An error that is not retryable is the answer, and raised at once.
        """
        deadline = time.monotonic() + self._patience
        last: UnderstudyError | None = None
        while True:
            with self._borrowed(check, deadline, last) as address:
                started = time.monotonic()
                try:
                    result = ask(address.client)
                except UnderstudyError as error:
                    if not error.retryable:
                        raise
                    last = error
                    with self._changed:
                        address.went_wrong(error, started)
                    if time.monotonic() >= deadline:
                        raise
                    log.info("teacher_retry", code=error.code, message=error.message, failures=address.failures)
                else:
                    with self._changed:
                        address.went_well()
                    return result

    def tripped(self) -> list[C]:
        """The clients of the addresses that are tried by one call at a time."""
        with self._changed:
            return [one.client for one in self._addresses if one.tripped]

    @contextmanager
    def _borrowed(self, check: Check, deadline: float, last: UnderstudyError | None) -> Iterator[_Address[C]]:
        address = self._take(check, deadline, last)
        try:
            yield address
        finally:
            with self._changed:
                address.busy -= 1
                self._changed.notify_all()

    def _take(self, check: Check, deadline: float, last: UnderstudyError | None) -> _Address[C]:
        """The least busy address that is free, the one that was asked longest ago among equals; wait for one."""
        while True:
            check()
            with self._changed:
                now = time.monotonic()
                free = [one for one in self._addresses if one.free(now)]
                if free:
                    chosen = min(free, key=lambda one: (one.busy, one.order))
                    chosen.busy += 1
                    self._turn += 1
                    chosen.order = self._turn
                    return chosen
                soonest = min(one.rests_until for one in self._addresses)
                if max(now, soonest) >= deadline:
                    raise last or self._why_not()
                self._changed.wait(min(POLL_SECONDS, max(soonest - now, 0.01), deadline - now))

    def _why_not(self) -> UnderstudyError:
        said = [one.last.message for one in self._addresses if one.last is not None]
        return Unavailable(
            f"none of {len(self._addresses)} teachers was free for {self._patience:g} s"
            + (f"; one said: {said[0]}" if said else ": start another, or raise teacher_patience")
        )
