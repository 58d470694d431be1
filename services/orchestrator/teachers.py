"""The teacher services: several addresses behind one call, with patience for one that is busy or away.

An answer is checked before it is believed: a wrong rationale would train a student in silence. A teacher that gives
such an answer, or fails in a way of its own, is one that is away: another is asked. Knows nothing of jobs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import httpx
from pydantic import ValidationError

from services.orchestrator.calls import Check, WholeCall, terms
from services.orchestrator.pool import Pool
from services.orchestrator.settings import Settings
from services.orchestrator.worker_metrics import Call, WorkerMetrics
from understudy.client import TeacherClient
from understudy.errors import InternalError, PayloadTooLarge, Unavailable, UnderstudyError
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

T = TypeVar("T")
R = TypeVar("R")

READY_SECONDS = 5.0


class _Nonsense(ValueError):
    """An answer that cannot be true."""


class Teachers:
    """`transport` replaces the network in tests; the deadline of a call is the network's."""

    def __init__(
        self,
        settings: Settings,
        transport: httpx.BaseTransport | None = None,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        chosen = transport or WholeCall()
        self._clients = [
            TeacherClient(url, api_key=settings.teacher_api_key, transport=chosen, timeout=None)
            for url in settings.teacher_urls
        ]
        self._patience = settings.teacher_patience
        self._timeout = settings.teacher_timeout
        self._max_examples = settings.teacher_max_examples
        self._pool = Pool(self._clients, settings.teacher_patience)
        self._metrics = metrics or WorkerMetrics()
        for url in {client.base_url for client in self._clients}:
            self._metrics.follow_breaker(url, partial(self._tripped, url))

    def close(self) -> None:
        for client in self._clients:
            client.close()

    @property
    def patience(self) -> float:
        """Seconds that a call waits for a teacher that is busy or away."""
        return self._patience

    def ready(self, check: Check = lambda: None) -> bool:
        """True when a teacher says that it can work."""
        with terms(READY_SECONDS, check):
            return any(client.ready() for client in self._clients)

    def wait_ready(self, check: Check) -> None:
        """Return when a teacher says that it can work. Raises Unavailable when patience ends."""

        def ask(teacher: TeacherClient) -> None:
            if not teacher.ready():
                raise Unavailable(f"the teacher at {teacher.base_url} is not ready: is it running there?")

        self._call("ready", ask, check, seconds=READY_SECONDS)

    def model(self, ref: str, check: Check) -> ModelInfo:
        """Facts about a model, which a teacher loads if it has to. Raises ModelNotFound, or Unavailable."""
        return self._call("model", lambda teacher: teacher.model(ref), check)

    def attribute(self, request: AttributionRequest, check: Check) -> list[AttributionResponse]:
        """Explain the examples in as many requests as the teacher's limits ask for; the answers are in order."""

        def ask(examples: Sequence[object]) -> list[AttributionResponse]:
            part = request.model_copy(update={"examples": tuple(examples)})

            def believed(teacher: TeacherClient) -> AttributionResponse:
                answer = teacher.attribute(part)
                _believe([example.id for example in part.examples], [result.id for result in answer.results])
                for result in answer.results:
                    _believe_finite(result.id, _numbers(result))
                return answer

            return [self._call("attribute", believed, check, examples=len(part.examples))]

        return self._in_parts(request.examples, ask)

    def predict(self, request: PredictionRequest, check: Check) -> list[Prediction]:
        """The teacher's own answers, in order."""

        def ask(inputs: Sequence[object]) -> list[Prediction]:
            part = request.model_copy(update={"inputs": tuple(inputs)})
            asked = [one.id if isinstance(one, PredictionInput) else None for one in part.inputs]

            def believed(teacher: TeacherClient) -> list[Prediction]:
                answer = teacher.predict(part)
                _believe(asked, [prediction.id for prediction in answer.predictions])
                for prediction in answer.predictions:
                    _believe_finite(prediction.id, [prediction.probability, *(prediction.probabilities or {}).values()])
                return list(answer.predictions)

            return self._call("predict", believed, check, examples=len(part.inputs))

        return self._in_parts(request.inputs, ask)

    def _in_parts(self, items: Sequence[T], ask: Callable[[Sequence[T]], list[R]]) -> list[R]:
        size = self._max_examples
        return [answer for start in range(0, len(items), size) for answer in _halving(items[start : start + size], ask)]

    def _tripped(self, url: str) -> int:
        return sum(client.base_url == url for client in self._pool.tripped())

    def _call(
        self,
        call: Call,
        ask: Callable[[TeacherClient], R],
        check: Check,
        *,
        seconds: float | None = None,
        examples: int = 0,
    ) -> R:
        """Ask a teacher, with its own faults told as those of one that is away: they are worth another try."""

        def asked(teacher: TeacherClient) -> R:
            try:
                with self._metrics.calling(teacher.base_url, call, examples):
                    return ask(teacher)
            except InternalError as error:
                raise Unavailable(
                    f"the teacher at {teacher.base_url} failed: {error.message}", retry_after=error.retry_after
                ) from error
            except ValidationError as error:
                first = error.errors(include_input=False)[0]
                where = ".".join(map(str, first["loc"]))
                raise Unavailable(
                    f"the teacher at {teacher.base_url} gave an answer that is none: {where}: {first['msg']}"
                ) from error
            except _Nonsense as error:
                raise Unavailable(f"the teacher at {teacher.base_url} cannot be believed: {error}") from error

        try:
            with terms(seconds or self._timeout, check):
                return self._pool.call(asked, check)
        except UnderstudyError as error:
            if error.retryable:
                self._metrics.gave_up(call)
            raise


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
        raise _Nonsense(f"it was asked about {len(asked)} examples and answered {len(given)} others")


def _believe_finite(example: str | None, numbers: Sequence[float]) -> None:
    if not all(map(math.isfinite, numbers)):
        raise _Nonsense(f"its numbers for example '{example}' are not finite")


def _numbers(result: Attribution) -> list[float]:
    return [
        result.probability or 0.0,
        *(result.probabilities or {}).values(),
        *(word.score for word in result.words + result.rationale),
        *(value for one in result.token_probabilities or () for value in (one.rest, *one.probabilities.values())),
    ]
