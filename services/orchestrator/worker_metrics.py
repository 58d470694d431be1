"""What a process counts of the work that it does itself: items, calls to teachers, rounds of its sweeper, messages.

An API process sweeps and asks teachers too, and shows the same at its own address; what waits is in the database, and
`metrics` tells it. Labels are of few values, no job's and no user's: queues, phases, and the teachers of the settings.
It is counted once for an item, a call or a round, never for a row. Knows no phase's work and no queue's messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import httpx
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from services.orchestrator.jobs import QUEUES, Item, Phase, Queue
from understudy.errors import LeaseLost, Overloaded, Unavailable, UnderstudyError
from understudy.metrics import new_registry
from understudy.ports import holder

__all__ = ["Call", "WorkerMetrics", "serve"]

Call = Literal["ready", "model", "attribute", "predict"]

_ENDS = ("done", "failed", "retried", "released", "lost")
_ROUNDS = ("done", "database_away", "failed")
_MESSAGES = ("sent", "broker_away")
_HOUR = 3600.0
_ITEM_SECONDS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, _HOUR, 4 * _HOUR, 12 * _HOUR, 24 * _HOUR)
_CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class WorkerMetrics:
    """Threads share it. Without a `registry` it has one of its own, which nobody needs to serve."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or new_registry()
        kinds = ["queue", "phase"]
        self._items = Counter(
            "understudy_worker_items",
            "Work items by how they ended here: done, failed for good, retried (another attempt follows), released "
            "(given back untouched: the worker ends, or the database is away), lost (the job was cancelled or paused, "
            "or the lease ran out)",
            [*kinds, "outcome"],
            registry=registry,
        )
        self._item_seconds = Histogram(
            "understudy_worker_item_seconds",
            "From an item's claim to its end, however it ended",
            kinds,
            buckets=_ITEM_SECONDS,
            registry=registry,
        )
        self._items_open = Gauge("understudy_worker_items_open", "Items at work now", kinds, registry=registry)
        self._attempts = Histogram(
            "understudy_worker_item_attempts",
            "Attempts that an item took until it was done or had failed for good",
            kinds,
            buckets=(1, 2, 3, 5, 10),
            registry=registry,
        )
        self._recovered = Counter(
            "understudy_worker_items_recovered",
            "Items taken back from a worker that was not heard of again",
            kinds,
            registry=registry,
        )
        self._sweeps = Counter(
            "understudy_sweeps",
            "Rounds of this process's sweeper: done, given up because the database was away, failed",
            ["outcome"],
            registry=registry,
        )
        self._messages = Counter(
            "understudy_messages",
            "Messages for work items: sent, or kept back because the broker was away (once a round)",
            ["queue", "outcome"],
            registry=registry,
        )
        asked = ["teacher", "call"]
        self._calls = Counter(
            "understudy_teacher_calls",
            "Calls to a teacher by how they ended: ok, busy (429), 4xx, 5xx (or not ready), timeout, unreachable, "
            "bad_answer, stopped (whoever asked had to end)",
            [*asked, "outcome"],
            registry=registry,
        )
        self._call_seconds = Histogram(
            "understudy_teacher_call_seconds",
            "From a call's first byte to its answer's last",
            asked,
            buckets=_CALL_SECONDS,
            registry=registry,
        )
        self._calls_open = Gauge(
            "understudy_teacher_calls_open", "Calls that have no answer yet", ["teacher"], registry=registry
        )
        self._examples = Counter(
            "understudy_teacher_examples", "Examples that a teacher has answered", asked, registry=registry
        )
        self._breaker = Gauge(
            "understudy_teacher_breaker_open",
            "1 while the teacher has failed so often in a row that a single call tries it before others follow",
            ["teacher"],
            registry=registry,
        )
        self._gave_up = Counter(
            "understudy_teacher_gave_up",
            "Questions that no teacher has answered within teacher_patience",
            ["call"],
            registry=registry,
        )
        self._begin()

    def _begin(self) -> None:
        """A series that is there from the start: Prometheus sees no growth in one that begins with 1."""
        for outcome in _ROUNDS:
            self._sweeps.labels(outcome)
        for queue in QUEUES:
            for outcome in _MESSAGES:
                self._messages.labels(queue, outcome)

    def expect(self, work: Iterable[tuple[Queue, Phase]]) -> None:
        """Begin the series of the work that this process takes."""
        for queue, phase in work:
            self._items_open.labels(queue, phase)
            for outcome in _ENDS:
                self._items.labels(queue, phase, outcome)

    def item_began(self, item: Item) -> None:
        self._items_open.labels(item.queue, item.phase).inc()

    def item_ended(self, item: Item, outcome: str, seconds: float) -> None:
        kind = item.queue, item.phase
        self._items_open.labels(*kind).dec()
        self._item_seconds.labels(*kind).observe(seconds)
        if outcome in ("done", "failed"):
            self._attempts.labels(*kind).observe(item.attempts)
        self._items.labels(*kind, outcome).inc()

    def recovered(self, item: Item) -> None:
        self._recovered.labels(item.queue, item.phase).inc()

    def swept(self, outcome: Literal["done", "database_away", "failed"]) -> None:
        self._sweeps.labels(outcome).inc()

    def message(self, queue: Queue, outcome: Literal["sent", "broker_away"]) -> None:
        self._messages.labels(queue, outcome).inc()

    @contextmanager
    def calling(self, teacher: str, call: Call, examples: int) -> Iterator[None]:
        """Count the call that is made within, about so many examples, by how the block ends.

        `teacher` is its address without a password. A ValueError is an answer that cannot be believed.
        """
        opened, started, outcome = self._calls_open.labels(teacher), time.monotonic(), "ok"
        opened.inc()
        try:
            yield
            self._examples.labels(teacher, call).inc(examples)
        except BaseException as error:
            outcome = _outcome(error)
            raise
        finally:
            opened.dec()
            self._calls.labels(teacher, call, outcome).inc()
            self._call_seconds.labels(teacher, call).observe(time.monotonic() - started)

    def gave_up(self, call: Call) -> None:
        self._gave_up.labels(call).inc()

    def follow_breaker(self, teacher: str, tripped: Callable[[], float]) -> None:
        """Ask for the state of a teacher's breaker whenever somebody looks."""
        self._breaker.labels(teacher).set_function(tripped)


def _outcome(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(cause, httpx.TimeoutException):
        return "timeout"
    if isinstance(cause, httpx.TransportError):
        return "unreachable"
    if isinstance(error, ValueError) or isinstance(cause, ValueError):
        return "bad_answer"
    if isinstance(error, Overloaded):
        return "busy"
    if isinstance(error, LeaseLost) or not isinstance(error, UnderstudyError):
        return "stopped"
    return f"{error.status // 100}xx"


@contextmanager
def serve(registry: CollectorRegistry, host: str, port: int) -> Iterator[int]:
    """Answer `GET /metrics` from a thread until the block ends; gives the port, which is a free one for 0.

    As at every service's, nobody needs a key for it. Raises Unavailable where the address cannot be had.
    """
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise Unavailable(
            f"the metrics cannot be had at {host}:{port} ({error.strerror or error}{holder(port)}): choose another "
            "address with --metrics"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
