"""What the student counts beside its requests: queue, batches, and what each model in memory has answered.

A model's series go when it is put out. Labels of a closed task are told apart, up to a bound; other answers are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.student.models import Models
from services.student.served import Served
from services.student.shadow import Shadow
from understudy.batching import DynamicBatcher
from understudy.metrics import BatchMetrics
from understudy.schemas import Prediction, PredictionInput

__all__ = ["StudentMetrics"]


class StudentMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.batch = BatchMetrics(registry)
        self._registry = registry
        self._gauges = {
            name: Gauge(f"understudy_{name}", text, registry=registry)
            for name, text in {
                "queue_examples": "Inputs that wait for the model or run",
                "queue_tokens": "Their tokens, each counted once for every pass that it takes",
                "models_loaded": "Models in memory",
                "models_bytes": "Bytes that they take, as max_model_bytes counts them",
            }.items()
        }

    def answered(self, model: Served, predictions: Sequence[Prediction], *, asked: int) -> None:
        """Count the answers that a request got, and the words where it `asked` for some, so many for each answer."""
        for one in predictions:
            model.record.add(one, asked=asked)

    def follow(self, batcher: DynamicBatcher[PredictionInput, Prediction], models: Models, shadow: Shadow) -> None:
        """From now on the gauges show these."""
        self._gauges["queue_examples"].set_function(lambda: batcher.items)
        self._gauges["queue_tokens"].set_function(lambda: batcher.tokens)
        self._gauges["models_loaded"].set_function(lambda: len(models.loaded()))
        self._gauges["models_bytes"].set_function(lambda: sum(model.bytes for model in models.loaded()))
        self._registry.register(_Answers(models))
        self._registry.register(_Disagreement(shadow))


class _Answers(Collector):
    """What each model in memory has answered, read from its record whenever somebody asks."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def describe(self) -> list[Metric]:
        return []  # nothing is known of the models when this is registered

    def collect(self) -> Iterator[Metric]:
        labels = CounterMetricFamily("understudy_answers", "Answers by label", labels=["model", "label"])
        words = CounterMetricFamily(
            "understudy_named_words", "Words named as reasons, by whether the input has them", labels=["model", "found"]
        )
        cut = CounterMetricFamily("understudy_truncated_inputs", "Inputs longer than the window", labels=["model"])
        drift = GaugeMetricFamily(
            "understudy_drift", "Stability index above chance, last answers to profile", labels=["model", "of"]
        )
        rows = GaugeMetricFamily("understudy_drift_answers", "Answers that it is computed over", labels=["model"])
        for model in self._models.loaded():
            record, name = model.record, model.artifact
            for label, count in record.labels.items():
                labels.add_metric([name, label], count)
            words.add_metric([name, "true"], record.words_found)
            words.add_metric([name, "false"], record.words_dropped)
            cut.add_metric([name], record.truncated)
            rows.add_metric([name], len(record.window))
            for about, shift in record.drift():
                drift.add_metric([name, about], shift.excess)
        yield from (labels, words, cut, drift, rows)


class _Disagreement(Collector):
    """How the shadow differs from the model that serves, of the pair that is compared now."""

    def __init__(self, shadow: Shadow) -> None:
        self._shadow = shadow

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        pair = ["serving", "shadow"]
        counts = {
            "compared": "Inputs that both models have answered",
            "dropped": "Copies of inputs that found the shadow's queue full or came too late",
            "failed": "Copies of inputs that the shadow could not answer",
        }
        counters = {
            name: CounterMetricFamily(f"understudy_shadow_{name}", text, labels=pair) for name, text in counts.items()
        }
        labels = CounterMetricFamily(
            "understudy_shadow_disagreements", "Inputs answered differently", labels=[*pair, "label", "shadow_label"]
        )
        share = GaugeMetricFamily(
            "understudy_shadow_disagreement_share", "Their share, and its interval", labels=[*pair, "bound"]
        )
        ratio = GaugeMetricFamily(
            "understudy_shadow_latency_ratio", "Seconds an input, shadow over serving model", labels=pair
        )
        if (now := self._shadow.now) is not None:
            names = [now.serving.artifact, now.shadow.artifact]
            for name, counter in counters.items():
                counter.add_metric(names, getattr(now, name))
            for (label, other), count in now.pairs.items():
                labels.add_metric([*names, label, other], count)
            if now.compared:
                low, high = now.interval
                for bound, value in {"share": now.disagreed / now.compared, "low": low, "high": high}.items():
                    share.add_metric([*names, bound], value)
            if now.latency_ratio is not None:
                ratio.add_metric(names, now.latency_ratio)
        yield from (*counters.values(), labels, share, ratio)
