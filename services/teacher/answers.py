"""From questions to answers: looked up, joined where somebody asks the same already, or computed in a shared pass.

Knows models and options, but neither which models are in memory nor what a request may ask.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from services.teacher import limits
from services.teacher.cache import Cache, Flights, example_key, options_key
from services.teacher.engine import Engine, Model
from services.teacher.metrics import TeacherMetrics
from understudy.attribution.methods import Method, settings_of
from understudy.batching import DynamicBatcher
from understudy.errors import UnderstudyError
from understudy.schemas import (
    Attribution,
    AttributionExample,
    AttributionOptions,
    Prediction,
    PredictionInput,
)

__all__ = ["Answers", "Explained", "Question"]

_PLACE = re.compile(r"\bexamples\[\d+\]")


@dataclass(frozen=True)
class Question(ABC):
    """What one pass can answer for many examples: a model and all options, which `key` is a hash of."""

    key: bytes
    work: Callable[[list[Any]], list[Any]] = field(compare=False)
    model: Model = field(compare=False)
    options: AttributionOptions = field(compare=False)

    @abstractmethod
    def cost(self, reading: limits.Reading, item: Any, length: int) -> int:
        """Tokens that one item takes, counted once for every pass."""

    def measure(self, items: Sequence[Any]) -> tuple[list[int], list[int]]:
        """Tokens that each item takes, and its cost, counted on any thread. Raises what `Model.lengths` raises."""
        model = self.model
        lengths = model.lengths([one.input for one in items], self.options.template)
        shared = model.adapter.max_padded_tokens if getattr(model.adapter, "reads_on", False) else 1
        reading = limits.Reading(model.info, cache(model.answer_length), shared)
        return lengths, [self.cost(reading, one, length) for one, length in zip(items, lengths, strict=True)]


@dataclass(frozen=True)
class Answered(Question):
    """A question whose answers are predictions."""

    def cost(self, reading: limits.Reading, item: PredictionInput, length: int) -> int:
        return limits.answer_work(reading, item, self.options.labels, length)


@dataclass(frozen=True)
class Explained(Question):
    """A question whose answers are attributions; `contrast` where two answers are compared."""

    method: Method = field(compare=False)
    contrast: bool = field(compare=False)

    def cost(self, reading: limits.Reading, item: AttributionExample, length: int) -> int:
        return limits.work(reading, self.options, self.method, item, length, contrast=self.contrast)


class Answers:
    """The queue in front of the model's thread, and what stands before the queue: the cache and what is under way."""

    def __init__(self, engine: Engine, metrics: TeacherMetrics) -> None:
        settings = engine.settings
        self.cache = Cache(settings.cache_bytes)
        self.queue: DynamicBatcher[Any, Any] = DynamicBatcher(
            _work,
            max_padded_tokens=settings.max_padded_tokens,
            max_items=settings.max_queue,
            max_tokens=settings.max_queue_tokens,
            watch=metrics.batch,
        )
        self._engine = engine
        self._metrics = metrics
        self._flights = Flights()

    def question(
        self, model: Model, options: AttributionOptions, method: Method, examples: Sequence[AttributionExample]
    ) -> Explained:
        """What `ask` asks for these examples. `method` is the one that the options name."""
        contrast = any(example.against or options.against for example in examples)
        precision = f"{model.info.precision} {contrast}"
        return Explained(
            key=options_key(model.info.fingerprint, precision, options, settings_of(method)),
            work=partial(self._engine.explain, model, options),
            model=model,
            options=options,
            method=method,
            contrast=contrast,
        )

    def answered(self, model: Model, labels: tuple[str, ...] | None, template: str | None) -> Answered:
        """What `predict` asks."""
        options = AttributionOptions(labels=labels, template=template)
        return Answered(
            key=options_key(model.info.fingerprint, "answers", options, {}),
            work=partial(self._engine.answer, model, labels, template),
            model=model,
            options=options,
        )

    def ask(
        self,
        question: Explained,
        examples: Sequence[AttributionExample],
        lengths: Sequence[int],
        costs: Sequence[int],
        field: str,
        indices: Sequence[int],
    ) -> tuple[list[asyncio.Future[Attribution]], int]:
        """A future for each example, and how many were known. `indices` are their places in the caller's `field`.

        Only what is neither known nor being computed is submitted, each of it once. An answer's id is that of whoever
        asked first. Raises Overloaded, and then nothing was submitted.
        """
        keys = [example_key(question.key, example) for example in examples]
        known = {key: found for key in set(keys) if (found := self.cache.get(key)) is not None}
        fresh: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            if key not in known and key not in self._flights:
                fresh.setdefault(key, i)
        asked = [examples[i] for i in fresh.values()]
        taken, paid = ([each[i] for i in fresh.values()] for each in (lengths, costs))
        started = self.queue.submit(question, asked, taken, paid)
        for key, source in zip(fresh, started, strict=True):
            source.add_done_callback(partial(self._keep, key))
            self._flights.start(key, source)
        hits = sum(key in known for key in keys)
        self._metrics.looked_up(hits, len(keys) - hits)
        waiters = [
            _done(known[key]) if key in known else self._flights.join(key, partial(_told, f"{field}[{index}]"))
            for key, index in zip(keys, indices, strict=True)
        ]
        return waiters, hits

    async def predict(
        self, question: Answered, inputs: Sequence[PredictionInput], lengths: Sequence[int], costs: Sequence[int]
    ) -> list[Prediction]:
        """The model's answers alone, which are cheap and not kept."""
        return await self.queue.run(question, inputs, lengths, costs)

    def _keep(self, key: bytes, source: asyncio.Future[Attribution]) -> None:
        if not source.cancelled() and source.exception() is None:
            self.cache.put(key, source.result())


def _work(question: Question, items: list[Any]) -> list[Any]:
    return question.work(items)


def _told(place: str, error: BaseException) -> BaseException:
    """The error of an example in a batch, said of its place in the request that it came with."""
    if not isinstance(error, UnderstudyError):
        return error
    param = None if error.param is None else _PLACE.sub(place, error.param)
    return type(error)(_PLACE.sub(place, error.message), param=param, retry_after=error.retry_after)


def _done(found: Attribution) -> asyncio.Future[Attribution]:
    known: asyncio.Future[Attribution] = asyncio.get_running_loop().create_future()
    known.set_result(found)
    return known
