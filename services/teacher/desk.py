"""The one door to the teacher's models, whatever protocol a request came by: limits, cache, queue and batches.

Routes call nothing else of this service. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import structlog

from services.teacher import limits
from services.teacher.answers import Answers, Explained, Question
from services.teacher.engine import Engine, Model
from services.teacher.metrics import TeacherMetrics
from services.teacher.models import Models
from understudy.attribution.attribute import as_prediction
from understudy.attribution.methods import settings_of
from understudy.attribution.targets import compared, explained
from understudy.batching import all_of
from understudy.errors import InternalError, InvalidRequest, Overloaded, UnderstudyError
from understudy.schemas import (
    Attribution,
    AttributionExample,
    AttributionOptions,
    AttributionRequest,
    AttributionResponse,
    ModelInfo,
    Prediction,
    PredictionInput,
    PredictionRequest,
    PredictionResponse,
)

__all__ = ["Check", "Desk"]

log = structlog.get_logger()

STREAM_CHUNK = 64
"""Examples of a streamed request that are submitted at once; at most two chunks are under way."""

FULL_SECONDS = 0.5
"""How long a streamed request of which nothing is under way waits before it tries a full queue again."""

_Lines = AsyncGenerator[Mapping[str, Any], None]


Check = Callable[[str], None]
"""Is given the fingerprint of the model that will answer, and raises where it is not the one that was asked."""


def _any(_: str) -> None:
    """Whatever the name means now."""


class Desk:
    """Every method raises errors of `understudy.errors`, before anything waits where they can be seen before.

    It is made on the event loop that it is used on; `stop` answers what was accepted and ends its threads.
    """

    def __init__(self, engine: Engine, metrics: TeacherMetrics) -> None:
        self.settings = engine.settings
        self.engine = engine
        self._models = Models(engine)
        self._answers = Answers(engine, metrics)
        metrics.follow(self._answers.queue, self._answers.cache, self._models)

    @property
    def alive(self) -> bool:
        """False when the model's thread has ended."""
        return self._answers.queue.alive

    async def attribute(self, request: AttributionRequest, check: Check = _any) -> AttributionResponse:
        """Explain all examples of a request; one that fails is the whole request's error."""
        limits.check(request, self.settings)
        ref = self._meant(request.model)
        async with self._models.use(ref) as model:
            check(model.info.fingerprint)
            question = self._explained(model, request, request.examples)
            _check_targets(model, request, request.examples, "examples")
            taken = await self._measured(question, request.examples, "examples")
            indices = range(len(request.examples))
            waiters, cached = self._answers.ask(question, request.examples, *taken, "examples", indices)
            found = await all_of(waiters)
            head = _head(ref, model, request, question)
        results = tuple(_named(one, example.id) for one, example in zip(found, request.examples, strict=True))
        return AttributionResponse(**head, cached=cached, results=results)

    async def stream(self, request: AttributionRequest) -> _Lines:
        """Explain the examples and give each result as soon as it is there, in no order.

        What is wrong with the request as a whole is raised here, before the first line. The lines: what all results
        share, then `{"index", "result"}` or `{"index", "error"}` for each example, then how many there were. No more is
        computed ahead than two chunks of what was taken.
        """
        lines = self._lines(request)
        head = await anext(lines)
        return _after(head, lines)

    async def predict(self, request: PredictionRequest, check: Check = _any) -> PredictionResponse:
        """The model's own answers, with the words behind them where the request asks for those."""
        limits.check(request, self.settings)
        ref = self._meant(request.model)
        inputs = [PredictionInput(input=one) if isinstance(one, str) else one for one in request.inputs]
        async with self._models.use(ref) as model:
            check(model.info.fingerprint)
            answer = self._with_words if request.explain else self._plain
            predictions = await answer(model, request, inputs)
        return PredictionResponse(
            model=ref, reasons="saliency" if request.explain else None, predictions=tuple(predictions)
        )

    async def load(self, ref: str) -> ModelInfo:
        """Load a model and let it answer once, so that it is ready for requests."""
        return await self.info(ref)

    async def unload(self, ref: str) -> None:
        """Put a model out of memory when its requests have ended. Raises ModelNotFound where it is not there."""
        await self._models.unload(ref)

    async def info(self, ref: str) -> ModelInfo:
        """Facts about a model, which is loaded if it has to be."""
        async with self._models.use(ref) as model:
            return model.info.model_copy(update={"id": ref})

    def loaded(self) -> list[ModelInfo]:
        """The models in memory, the one asked last at the end."""
        return self._models.loaded()

    async def is_loaded(self, ref: str) -> bool:
        """True when what a reference names now is in memory. Raises ModelNotFound where it is not offered."""
        return await self._models.is_loaded(ref)

    async def stop(self) -> None:
        """Answer what was accepted and end the threads."""
        await self._models.stop()
        await asyncio.to_thread(self._answers.queue.close)

    async def _with_words(
        self, model: Model, request: PredictionRequest, inputs: Sequence[PredictionInput]
    ) -> list[Prediction]:
        options = AttributionOptions(labels=request.labels, template=request.template, top_k=request.top_k)
        examples = [AttributionExample(id=one.id, input=one.input, choices=one.choices) for one in inputs]
        question = self._explained(model, options, examples)
        taken = await self._measured(question, examples, "inputs")
        waiters, _ = self._answers.ask(question, examples, *taken, "inputs", range(len(examples)))
        found = await all_of(waiters)
        return [as_prediction(_named(one, example.id)) for one, example in zip(found, examples, strict=True)]

    async def _plain(
        self, model: Model, request: PredictionRequest, inputs: Sequence[PredictionInput]
    ) -> list[Prediction]:
        question = self._answers.answered(model, request.labels, request.template)
        return await self._answers.predict(question, inputs, *await self._measured(question, inputs, "inputs"))

    def _meant(self, ref: str | None) -> str:
        """The reference that a request means: its own, or the default."""
        if ref is None and self.settings.model is None:
            raise InvalidRequest("model is missing, and this service has no default model: name one", param="model")
        return ref or str(self.settings.model)

    def _explained(
        self, model: Model, options: AttributionOptions, examples: Sequence[AttributionExample]
    ) -> Explained:
        return self._answers.question(model, options, limits.check_method(options, self.settings), examples)

    async def _measured(
        self, question: Question, items: Sequence[AttributionExample | PredictionInput], field: str
    ) -> tuple[list[int], list[int]]:
        """The tokens of each item, and its cost. Raises PayloadTooLarge where they are too many together."""
        lengths, costs = await asyncio.to_thread(question.measure, items)
        limits.check_tokens(field, lengths, costs, self.settings)
        return lengths, costs

    async def _lines(self, request: AttributionRequest) -> _Lines:
        limits.check(request, self.settings, chunk=STREAM_CHUNK)
        examples = request.examples
        compared(examples, request, [()] * len(examples), None)  # all of them are compared with another answer, or none
        ref = self._meant(request.model)
        async with self._models.use(ref) as model:
            question = self._explained(model, request, examples)
            # Those of one length come together, because they share passes with little padding.
            order = sorted(range(len(examples)), key=lambda i: len(examples[i].input), reverse=True)
            chunks = [order[start : start + STREAM_CHUNK] for start in range(0, len(order), STREAM_CHUNK)][::-1]
            flying = await self._submit(question, examples, chunks.pop())
            failed = 0
            try:
                yield _head(ref, model, request, question)
                while flying or chunks:
                    done = (await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED))[0] if flying else set()
                    for waiter in done:
                        index = flying.pop(waiter)
                        failed += waiter.exception() is not None
                        yield _line(index, waiter, examples[index].id)
                    try:
                        while chunks and len(flying) < STREAM_CHUNK:
                            flying |= await self._submit(question, examples, chunks[-1])
                            chunks.pop()
                    except Overloaded:  # this request was accepted: it waits for room
                        if not flying:
                            await asyncio.sleep(FULL_SECONDS)
            finally:
                for waiter in flying:
                    waiter.cancel()
        yield {"done": True, "completed": len(examples) - failed, "failed": failed}

    async def _submit(
        self, question: Explained, examples: Sequence[AttributionExample], indices: Sequence[int]
    ) -> dict[asyncio.Future[Attribution], int]:
        """The examples at these indices, and what each future is the answer to."""
        chosen = [examples[i] for i in indices]
        lengths, costs = await asyncio.to_thread(question.measure, chosen)
        waiters, _ = self._answers.ask(question, chosen, lengths, costs, "examples", indices)
        return dict(zip(waiters, indices, strict=True))


def _check_targets(
    model: Model, options: AttributionOptions, examples: Sequence[AttributionExample], field: str
) -> None:
    """Raise InvalidRequest for an answer to explain that is missing or impossible, before anything waits."""
    closed = [list(example.choices or options.labels or model.adapter.task.labels) for example in examples]
    known = explained(examples, options, closed, None, field)
    compared(examples, options, closed, known, field)


def _head(ref: str, model: Model, options: AttributionOptions, question: Explained) -> dict[str, Any]:
    """What all results of a request share."""
    return {
        "model": ref,
        "fingerprint": model.info.fingerprint,
        "method": options.method,
        "settings": settings_of(question.method),
        "target": options.target,
        "precision": model.info.precision,
    }


def _line(index: int, waiter: asyncio.Future[Attribution], name: str | None) -> dict[str, Any]:
    error = waiter.exception()
    if error is None:
        return {"index": index, "result": _named(waiter.result(), name).model_dump(mode="json")}
    if not isinstance(error, UnderstudyError):
        log.error("defect", exc_info=error)
        error = InternalError("an unexpected error occurred: the service's log has it under this request's id")
    return {"index": index, **error.body()}


async def _after(head: Mapping[str, Any], lines: _Lines) -> _Lines:
    async with aclosing(lines):
        yield head
        async for line in lines:
            yield line


def _named(found: Attribution, name: str | None) -> Attribution:
    return found.model_copy(update={"id": name})
