"""What the teacher counts beside its requests: queue, batches, cache and models. No label has more than two values."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from services.teacher.cache import Cache
from services.teacher.models import Models
from understudy.batching import DynamicBatcher
from understudy.metrics import BatchMetrics
from understudy.models.passes import out_of_memory

__all__ = ["TeacherMetrics"]


class _OutOfMemory(Collector):
    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(
            "understudy_batches_out_of_memory",
            "Batches that did not fit into the device's memory and were halved: lower max_padded_tokens",
            value=out_of_memory.value,
        )


class TeacherMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.batch = BatchMetrics(registry)
        registry.register(_OutOfMemory())
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
