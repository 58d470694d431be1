"""Attributions that are known already, and those that are being computed: the same question is never asked twice.

A question's key is a hash over everything that changes its answer, so nothing ever has to be declared stale. Knows
nothing of models and batches.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from understudy.schemas import Attribution, AttributionExample, AttributionOptions, AttributionRequest

__all__ = ["Cache", "Flights", "example_key", "options_key"]

_BESIDE = set(AttributionRequest.model_fields) - set(AttributionOptions.model_fields)
_OVERHEAD = 200  # bytes of an entry beside its text: the key, the table, the objects around them


def options_key(fingerprint: str, precision: str, options: AttributionOptions, settings: Mapping[str, Any]) -> bytes:
    """A hash over the model and all options. `settings` are the method's, defaults included."""
    asked = options.model_dump(exclude=_BESIDE) | {"settings": dict(settings)}
    return _hash([fingerprint, precision, asked])


def example_key(options: bytes, example: AttributionExample) -> bytes:
    """A hash over all that changes an example's answer: everything but its id."""
    return _hash([options.hex(), example.model_dump(exclude={"id"})])


class Cache:
    """Attributions by key, bounded in bytes; the one that was asked for longest ago goes first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, key: bytes) -> Attribution | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept.move_to_end(key)
        return Attribution.model_validate_json(kept)

    def put(self, key: bytes, found: Attribution) -> None:
        if not self.max_bytes or key in self._kept:
            return
        text = found.model_dump_json().encode()
        self._kept[key] = text
        self.bytes += len(text) + _OVERHEAD
        while self.bytes > self.max_bytes:
            _, old = self._kept.popitem(last=False)
            self.bytes -= len(old) + _OVERHEAD


Told = Callable[[BaseException], BaseException]
"""What one of several callers is told of an error."""


class Flights:
    """Computations that are under way, by key, so that whoever asks the same waits for the same."""

    def __init__(self) -> None:
        self._flights: dict[bytes, _Flight] = {}

    def __contains__(self, key: bytes) -> bool:
        flight = self._flights.get(key)
        return flight is not None and not flight.source.done()

    def start(self, key: bytes, source: asyncio.Future[Attribution]) -> None:
        """From now on `source` computes what `key` asks."""
        self._flights[key] = flight = _Flight(source)

        def landed(_: asyncio.Future[Attribution]) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]

        source.add_done_callback(landed)

    def join(self, key: bytes, told: Told) -> asyncio.Future[Attribution]:
        """A future of one's own for a computation that is under way. Cancelling it leaves the others' alone."""
        return self._flights[key].join(told)


class _Flight:
    """One computation and its passengers; it is cancelled when all of them have left."""

    def __init__(self, source: asyncio.Future[Attribution]) -> None:
        self.source = source
        self._waiters: dict[asyncio.Future[Attribution], Told] = {}
        source.add_done_callback(self._land)

    def join(self, told: Told) -> asyncio.Future[Attribution]:
        waiter = self.source.get_loop().create_future()
        self._waiters[waiter] = told
        waiter.add_done_callback(self._left)
        return waiter

    def _left(self, waiter: asyncio.Future[Attribution]) -> None:
        del self._waiters[waiter]
        if not self._waiters:
            self.source.cancel()  # which does nothing where it is done

    def _land(self, source: asyncio.Future[Attribution]) -> None:
        for waiter, told in list(self._waiters.items()):
            if waiter.done():
                continue
            if source.cancelled():
                waiter.cancel()
            elif error := source.exception():
                waiter.set_exception(told(error))
            else:
                waiter.set_result(source.result())


def _hash(parts: Any) -> bytes:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
