"""What a service counts about itself, in Prometheus' text format. Knows no route and no model.

Each application has a registry of its own, so that several live in one process. Labels are of few values: an address
is counted under its route's template, never as it was sent.
"""

from __future__ import annotations

from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["BatchMetrics", "Metrics", "new_registry"]

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


def new_registry() -> CollectorRegistry:
    """A registry that has what the process uses and nothing else yet."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    return registry


class Metrics:
    """The requests of one application and what its process uses; a service adds its own to `registry`."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = new_registry()
        labels = ["method", "route"]
        self._requests = Counter(
            "understudy_http_requests",
            "Requests that have ended; status 499 where the client left before the answer",
            [*labels, "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "understudy_http_request_seconds",
            "From a request's first byte to its answer's last",
            labels,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._open = Gauge("understudy_http_requests_open", "Requests that have not ended", registry=self.registry)

    def began(self) -> None:
        self._open.inc()

    def ended(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count one request. `route` is a template such as `/v1/models/{model}`, None for an unknown address."""
        named = (method if method in _METHODS else "other", route or "(none)")
        self._open.dec()
        self._requests.labels(*named, str(status)).inc()
        self._seconds.labels(*named).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Batch(Protocol):
    """What is counted of a batch that has run: `understudy.batching.BatchFacts`."""

    @property
    def size(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def padded(self) -> int: ...
    @property
    def seconds(self) -> float: ...


class BatchMetrics:
    """Counts each batch that has run; the model's thread calls it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256)
        shares = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
        seconds = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
        self._size = Histogram("understudy_batch_examples", "Examples of a batch", buckets=sizes, registry=registry)
        self._padding = Histogram(
            "understudy_batch_padding_share", "Padding among a batch's tokens", buckets=shares, registry=registry
        )
        self._seconds = Histogram(
            "understudy_batch_seconds", "Time that a batch takes", buckets=seconds, registry=registry
        )
        self._examples = Counter("understudy_examples", "Examples that the model worked on", registry=registry)
        self._tokens = Counter("understudy_tokens", "Their tokens, without padding", registry=registry)

    def __call__(self, facts: _Batch) -> None:
        self._size.observe(facts.size)
        self._padding.observe(1 - facts.tokens / max(1, facts.padded))
        self._seconds.observe(facts.seconds)
        self._examples.inc(facts.size)
        self._tokens.inc(facts.tokens)
