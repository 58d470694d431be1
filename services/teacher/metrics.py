"""What the teacher counts beside its requests: queue, batches, cache and models. No label has more than two values."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.teacher.cache import Cache
from services.teacher.models import Models
from understudy.batching import BatchFacts, DynamicBatcher

__all__ = ["TeacherMetrics"]


class TeacherMetrics:
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
        self._looked_up = Counter(
            "understudy_cache_lookups", "Attributions looked up in the cache", ["result"], registry=registry
        )
        self._gauges = {
            name: Gauge(f"understudy_{name}", text, registry=registry)
            for name, text in {
                "queue_examples": "Examples that wait for the model or run",
                "queue_tokens": "Their tokens, each counted once for every pass that it takes",
                "cache_bytes": "Bytes of the attributions that are kept",
                "models_loaded": "Models in memory",
                "models_bytes": "Bytes of their parameters",
            }.items()
        }

    def batch(self, facts: BatchFacts) -> None:
        """Count a batch that has run; the model's thread calls it."""
        self._size.observe(facts.size)
        self._padding.observe(1 - facts.tokens / max(1, facts.padded))
        self._seconds.observe(facts.seconds)
        self._examples.inc(facts.size)
        self._tokens.inc(facts.tokens)

    def looked_up(self, hits: int, misses: int) -> None:
        self._looked_up.labels("hit").inc(hits)
        self._looked_up.labels("miss").inc(misses)

    def follow(self, batcher: DynamicBatcher[object, object], cache: Cache, models: Models) -> None:
        """From now on the gauges show these."""
        self._gauges["queue_examples"].set_function(lambda: batcher.items)
        self._gauges["queue_tokens"].set_function(lambda: batcher.tokens)
        self._gauges["cache_bytes"].set_function(lambda: cache.bytes)
        self._gauges["models_loaded"].set_function(lambda: len(models.loaded()))
        self._gauges["models_bytes"].set_function(lambda: models.bytes)
