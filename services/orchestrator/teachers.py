"""The teacher services: several addresses behind one call, with patience for one that is busy or away.

An answer is checked before it is believed: a wrong rationale would train a student in silence. Knows nothing of jobs.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import httpx
import structlog

from services.orchestrator.settings import Settings
from understudy.client import TeacherClient
from understudy.errors import PayloadTooLarge, Unavailable, UnderstudyError
from understudy.schemas import (
    Attribution,
    AttributionRequest,
    AttributionResponse,
    ModelInfo,
    Prediction,
    PredictionInput,
    PredictionRequest,
)

__all__ = ["Check", "Teachers"]

log = structlog.get_logger()

T = TypeVar("T")
R = TypeVar("R")
Check = Callable[[], None]
"""Called before each attempt and while waiting; it may raise, so that a worker that must stop does not stay here."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
READ_TIMEOUT = 600.0  # the first request to a model waits until it is loaded


class Teachers:
    def __init__(self, settings: Settings, transport: httpx.BaseTransport | None = None) -> None:
        urls = settings.teacher_urls
        self._clients = [TeacherClient(url, transport=transport, timeout=READ_TIMEOUT) for url in urls]
        self._turn = itertools.count()  # next() on it is atomic, and threads share the pool
        self._patience = settings.teacher_patience
        self._max_examples = settings.teacher_max_examples

    def close(self) -> None:
        for client in self._clients:
            client.close()

    @property
    def patience(self) -> float:
        """Seconds that a call waits for a teacher that is busy or away."""
        return self._patience

    def ready(self) -> bool:
        """True when a teacher says that it can work."""
        return any(client.ready() for client in self._clients)

    def wait_ready(self, check: Check) -> None:
        """Return when a teacher says that it can work. Raises Unavailable when patience ends."""

        def ask(teacher: TeacherClient) -> None:
            if not teacher.ready():
                raise Unavailable(f"the teacher at {teacher.base_url} is not ready: is it running there?")

        self._call(ask, check)

    def model(self, ref: str, check: Check) -> ModelInfo:
        """Facts about a model, which a teacher loads if it has to. Raises ModelNotFound, or Unavailable."""
        return self._call(lambda teacher: teacher.model(ref), check)

    def attribute(self, request: AttributionRequest, check: Check) -> list[AttributionResponse]:
        """Explain the examples in as many requests as the teacher's limits ask for; the answers are in order."""

        def ask(examples: Sequence[object]) -> list[AttributionResponse]:
            part = request.model_copy(update={"examples": tuple(examples)})
            answer = self._call(lambda teacher: teacher.attribute(part), check)
            _believe([example.id for example in part.examples], [result.id for result in answer.results])
            for result in answer.results:
                _believe_finite(result.id, _numbers(result))
            return [answer]

        return self._in_parts(request.examples, ask)

    def predict(self, request: PredictionRequest, check: Check) -> list[Prediction]:
        """The teacher's own answers, in order."""

        def ask(inputs: Sequence[object]) -> list[Prediction]:
            part = request.model_copy(update={"inputs": tuple(inputs)})
            answer = self._call(lambda teacher: teacher.predict(part), check)
            asked = [one.id if isinstance(one, PredictionInput) else None for one in part.inputs]
            _believe(asked, [prediction.id for prediction in answer.predictions])
            for prediction in answer.predictions:
                _believe_finite(prediction.id, [prediction.probability, *(prediction.probabilities or {}).values()])
            return list(answer.predictions)

        return self._in_parts(request.inputs, ask)

    def _in_parts(self, items: Sequence[T], ask: Callable[[Sequence[T]], list[R]]) -> list[R]:
        size = self._max_examples
        return [answer for start in range(0, len(items), size) for answer in _halving(items[start : start + size], ask)]

    def _call(self, ask: Callable[[TeacherClient], R], check: Check) -> R:
        """Ask the teachers in turn until one answers or patience ends; then raise what the last one said."""
        deadline = time.monotonic() + self._patience
        for attempt in itertools.count():
            check()
            client = self._clients[next(self._turn) % len(self._clients)]
            try:
                return ask(client)
            except UnderstudyError as error:
                # Full jitter: workers that were refused together must not come back together.
                pause = (error.retry_after or 0) + random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt))
                if not error.retryable or time.monotonic() + pause > deadline:
                    raise
                log.info("teacher_retry", teacher=client.base_url, code=error.code, pause=round(pause, 2))
            _sleep(pause, check)
        raise AssertionError("the loop above has no end")


def _halving(items: Sequence[T], ask: Callable[[Sequence[T]], list[R]]) -> list[R]:
    """Ask about all items at once, or where that is too much for a teacher, about each half."""
    try:
        return ask(items)
    except PayloadTooLarge:
        if len(items) == 1:
            raise
    middle = len(items) // 2
    return _halving(items[:middle], ask) + _halving(items[middle:], ask)


def _believe(asked: Sequence[str | None], given: Sequence[str | None]) -> None:
    if asked != given:
        raise Unavailable(f"a teacher was asked about {len(asked)} examples and answered {len(given)} others")


def _believe_finite(example: str | None, numbers: Sequence[float]) -> None:
    if not all(map(math.isfinite, numbers)):
        raise Unavailable(f"a teacher's numbers for example '{example}' are not finite")


def _numbers(result: Attribution) -> list[float]:
    return [result.probability or 0.0, *(result.probabilities or {}).values(), *(word.score for word in result.words)]


def _sleep(seconds: float, check: Check) -> None:
    """Sleep, but never long without asking whether the work must stop."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check()
        time.sleep(min(left, 0.2))
