"""A model that is asked what the default alias's model is asked, and answers nobody: how often would it have differed?

Copies are made of requests that have been answered. They wait in a queue of their own, for a thread of their own that
begins a pass only while no request waits for an answer, and whose passes have a lower priority where the system can do
that; a copy that finds the queue full is dropped and counted. Nothing that goes wrong here reaches a request. What is
counted is of one pair of models: when either alias moves, copies that still wait are dropped and counting begins anew.

Texts are kept only where the operator asks for them. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from services.student.models import Models
from services.student.record import OTHER
from services.student.served import Pace, Served
from understudy.batching import ModelThread
from understudy.errors import Overloaded, UnderstudyError
from understudy.evaluation.metrics import wilson
from understudy.schemas import Prediction, PredictionInput, PredictionRequest

__all__ = ["Compared", "Sample", "Shadow"]

log = structlog.get_logger()

MAX_LABELS = 100
"""Labels of the serving model that are told apart; the rest is one."""
MAX_TEXT = 2000
"""Characters of a kept text."""
CHUNK = 16
"""Inputs of one pass: a request that comes meanwhile shares the machine for so long at the most."""
_NICE = 10
_PAUSE = 0.002  # seconds between two looks at whether a request waits


@dataclass(frozen=True)
class Sample:
    """An input that the two models answered differently, cut to 2,000 characters."""

    input: str
    serving: str
    serving_probability: float
    shadow: str
    shadow_probability: float


@dataclass(eq=False)
class Compared:
    """Two models' answers to the same inputs. `pairs` counts (serving's label, shadow's label) where they differ."""

    serving: Served
    shadow: Served
    samples: deque[Sample]
    compared: int = 0
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: int = 0
    failed: int = 0
    problem: str | None = None
    pace: Pace = field(default_factory=Pace)
    _before: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        self._before = replace(self.serving.pace)
        self._known = frozenset(list(self.serving.task.labels)[:MAX_LABELS])

    @property
    def disagreed(self) -> int:
        return sum(self.pairs.values())

    @property
    def interval(self) -> tuple[float, float]:
        """The share of disagreement that 95 % of such samples would come from (Wilson 1927)."""
        return wilson(self.disagreed, self.compared)

    @property
    def latency_ratio(self) -> float | None:
        """Seconds that an input takes the shadow's passes, over those of the serving model's since this began."""
        ours, theirs = self.pace.since(Pace()), self.serving.pace.since(self._before)
        return ours / theirs if ours is not None and theirs else None

    def add(self, texts: Sequence[str], given: Sequence[Prediction], found: Sequence[Prediction]) -> None:
        """Count what both have answered."""
        for text, one, other in zip(texts, given, found, strict=True):
            self.compared += 1
            if one.label == other.label:
                continue
            self.pairs[self._name(one.label), self._name(other.label)] += 1
            self.samples.append(Sample(text[:MAX_TEXT], one.label, one.probability, other.label, other.probability))

    def _name(self, label: str) -> str:
        return label if label in self._known else OTHER


class Shadow:
    """`busy` says whether a request waits for an answer. Lives on the event loop; `stop` ends its thread."""

    def __init__(self, models: Models, busy: Callable[[], bool]) -> None:
        self.settings = models.settings
        self._models = models
        self._busy = busy
        self._draw = random.Random()
        self._now: Compared | None = None
        self._waiting = 0  # inputs
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = threading.Event()
        self._quiet = threading.local()
        self._thread = ModelThread(self.settings.shadow_queue) if self.settings.shadow_share else None

    @property
    def now(self) -> Compared | None:
        """What is counted of the two models that the aliases name now; None where they are not two."""
        serving, shadow = self._pair()
        if serving is None or shadow is None or serving is shadow:
            self._now = None
        elif self._now is None or not self._is_of(self._now):
            self._now = Compared(serving, shadow, deque(maxlen=self.settings.shadow_samples))
        return self._now

    def copy(
        self,
        model: Served,
        request: PredictionRequest,
        inputs: Sequence[PredictionInput],
        given: Sequence[Prediction],
    ) -> None:
        """Take a copy of a request to the default alias that `model` has answered, or leave it. Raises nothing."""
        compared = self.now
        if compared is None or compared.serving is not model or self._draw.random() >= self.settings.shadow_share:
            return
        if self._waiting + len(inputs) > self.settings.shadow_queue:
            compared.dropped += len(inputs)
            return
        self._waiting += len(inputs)
        task = asyncio.create_task(self._compare(compared, request, inputs, given))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Drop what waits, and end the thread."""
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.close)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _pair(self) -> tuple[Served | None, Served | None]:
        alias = self.settings.shadow
        if self._thread is None or alias in self._models.problems:  # it has moved, and not to a model that serves
            return None, None
        return self._models.served(self.settings.alias), self._models.served(alias)

    def _is_of(self, compared: Compared) -> bool:
        return self._pair() == (compared.serving, compared.shadow)

    async def _compare(
        self,
        compared: Compared,
        request: PredictionRequest,
        inputs: Sequence[PredictionInput],
        given: Sequence[Prediction],
    ) -> None:
        assert self._thread is not None
        try:
            found = await self._thread.run(self._ask, compared, request, inputs)
            compared.add([one.input for one in inputs], given, found)
        except (_Late, Overloaded):
            compared.dropped += len(inputs)
        except Exception as error:  # nobody waits for this answer, and whatever it was, the next copy is tried
            compared.failed += len(inputs)
            problem = error.message if isinstance(error, UnderstudyError) else f"{type(error).__name__}: {error}"
            if compared.problem is None:
                log.warning("shadow_failed", shadow=compared.shadow.artifact, problem=problem)
            compared.problem = problem
        finally:
            self._waiting -= len(inputs)

    def _ask(
        self, compared: Compared, request: PredictionRequest, inputs: Sequence[PredictionInput]
    ) -> list[Prediction]:
        """The shadow's answers, on its own thread, whenever no request waits."""
        self._be_quiet()
        found: list[Prediction] = []
        for start in range(0, len(inputs), CHUNK):
            part = inputs[start : start + CHUNK]
            while self._busy() and not self._stopping.is_set():
                time.sleep(_PAUSE)
            if self._stopping.is_set() or not self._is_of(compared):
                raise _Late
            with compared.shadow.turn:
                began = time.perf_counter()
                found += compared.shadow.engine.predict(
                    part,
                    explain=request.explain,
                    top_k=request.top_k,
                    labels=request.labels,
                    template=request.template,
                )
                compared.pace.add(len(part), time.perf_counter() - began)
        return found

    def _be_quiet(self) -> None:
        """Lower this thread's priority, once. On Linux alone a thread has one of its own, and those that it starts."""
        if sys.platform == "linux" and not hasattr(self._quiet, "set"):
            self._quiet.set = True
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)


class _Late(Exception):
    """The models to compare are others by now, or the service ends."""
