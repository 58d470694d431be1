"""The one door to the student's models, whatever protocol a request came by: limits, queue, batches and deadline.

A request keeps the model that it began with, however many batches its inputs end up in. Routes call nothing else of
this service. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.student import limits
from services.student.metrics import StudentMetrics
from services.student.models import Models
from services.student.served import Served
from services.student.shadow import Shadow
from understudy.batching import DynamicBatcher, all_of
from understudy.errors import DeadlineExceeded, Unavailable, UnderstudyError
from understudy.schemas import Prediction, PredictionInput, PredictionRequest

__all__ = ["Desk", "Found"]

_PLACE = re.compile(r"\binputs\[\d+\]")


@dataclass(frozen=True)
class Found:
    """The answers to a request, by the name that it asked for and the model that answered."""

    name: str
    model: Served
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class _Question:
    """What one pass can answer for many inputs: a model and all options."""

    model: Served
    explain: bool
    top_k: int
    labels: tuple[str, ...] | None
    template: str | None


class Desk:
    """Every method raises errors of `understudy.errors`.

    It is made on the event loop that it is used on; `stop` answers what was accepted and ends its threads.
    """

    def __init__(self, models: Models, metrics: StudentMetrics) -> None:
        self.models = models
        self.settings = models.settings
        self._metrics = metrics
        self._draw = random.Random()
        self._queue: DynamicBatcher[PredictionInput, Prediction] = DynamicBatcher(
            _work,
            max_padded_tokens=self.settings.max_padded_tokens,
            max_items=self.settings.max_queue,
            max_tokens=self.settings.max_queue_tokens,
            in_order=True,  # engines group their rows by length themselves
            watch=metrics.batch,
        )
        self.shadow = Shadow(models, busy=lambda: self._queue.items > 0)
        metrics.follow(self._queue, models, self.shadow)

    async def predict(self, request: PredictionRequest, seconds: float | None = None) -> Found:
        """Answer all inputs of a request by one model; one that fails is the whole request's error.

        `seconds` is how long the caller waits, as far as it is less than the service's own bound. Raises
        DeadlineExceeded when they are over, and what still waits is dropped.
        """
        inputs = [PredictionInput(input=one) if isinstance(one, str) else one for one in request.inputs]
        limits.check(request, inputs, self.settings)
        name = self.settings.alias if request.model is None else request.model
        async with self._deadline(seconds):
            model = self._canary(name) or await self.models.get(name)
            with self.models.in_use(model):
                predictions = await self._ask(model, request, inputs)
        self._metrics.answered(model, predictions, asked=request.top_k if request.explain else 0)
        if name == self.settings.alias:
            self.shadow.copy(model, request, inputs, predictions)
        return Found(name, model, tuple(predictions))

    async def model(self, name: str) -> Served:
        """The model behind an artifact id or alias, loaded if it has to be."""
        return await self.models.get(name)

    def ready(self) -> Served:
        """The default alias's model. Raises Unavailable, which says what to do."""
        if not self._queue.alive:
            raise Unavailable("the model thread has ended: restart the service")
        return self.models.ready()

    async def stop(self) -> None:
        """Answer what was accepted and end the threads."""
        await self.models.stop()
        await self.shadow.stop()
        await asyncio.to_thread(self._queue.close)

    def _canary(self, name: str) -> Served | None:
        """The canary's model, for its share of the default alias's requests; None where it has none or is not there."""
        share = self.settings.canary_share
        if name != self.settings.alias or self._draw.random() >= share:
            return None
        return self.models.served(self.settings.canary)

    async def _ask(
        self, model: Served, request: PredictionRequest, inputs: Sequence[PredictionInput]
    ) -> list[Prediction]:
        if request.template is not None:
            # One that leaves no room for a text is refused here: a batch would fail by it, and each half of it again.
            await asyncio.to_thread(model.counts, ["x"], request.template)
        closed = request.labels or model.task.labels
        lengths = model.lengths([one.input for one in inputs], request.template)
        costs = [
            model.work(length, len(one.choices or closed), request.explain)
            for length, one in zip(lengths, inputs, strict=True)
        ]
        limits.check_work(costs, self.settings)
        question = _Question(model, request.explain, request.top_k, request.labels, request.template)
        waiters = self._queue.submit(question, inputs, lengths, costs)
        try:
            return await all_of(waiters)
        except UnderstudyError as error:
            raise _told(error, waiters) from error

    @asynccontextmanager
    async def _deadline(self, seconds: float | None) -> AsyncIterator[None]:
        most = self.settings.request_seconds
        allowed = most if seconds is None else min(seconds, most)
        scope = asyncio.timeout(allowed)
        try:
            async with scope:
                yield
        except TimeoutError:
            if not scope.expired():
                raise
            raise DeadlineExceeded(
                f"there is no answer after {allowed:g} s, which is as long as this request may take"
            ) from None


def _work(question: _Question, inputs: list[PredictionInput]) -> list[Prediction]:
    model = question.model
    with model.turn:
        began = time.perf_counter()
        found = model.engine.predict(
            inputs,
            explain=question.explain,
            top_k=question.top_k,
            labels=question.labels,
            template=question.template,
        )
        model.pace.add(len(inputs), time.perf_counter() - began)
    return found


def _told(error: UnderstudyError, waiters: Sequence[asyncio.Future[Prediction]]) -> UnderstudyError:
    """The error of an input in a batch, said of its place in the request that it came with."""
    ended = (one.done() and not one.cancelled() and one.exception() is error for one in waiters)
    place = next((f"inputs[{i}]" for i, found in enumerate(ended) if found), None)
    if place is None:
        return error
    param = None if error.param is None else _PLACE.sub(place, error.param)
    return type(error)(_PLACE.sub(place, error.message), param=param, retry_after=error.retry_after)
