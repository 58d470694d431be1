"""The one door to the teacher's models, whatever protocol a request came by: checks, waits its turn, answers.

Routes call nothing else of this service. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from services.teacher.engine import Engine
from understudy.batching import ModelThread
from understudy.schemas import (
    AttributionRequest,
    AttributionResponse,
    ModelInfo,
    PredictionRequest,
    PredictionResponse,
)

__all__ = ["Desk"]


class Desk:
    """Every method raises errors of `understudy.errors`, before anything waits where no model is needed to see them."""

    def __init__(self, engine: Engine, thread: ModelThread) -> None:
        self.engine = engine
        self._thread = thread

    async def attribute(self, request: AttributionRequest) -> AttributionResponse:
        """Explain all examples of a request; one that fails is the whole request's error."""
        self.engine.check(request)
        return await self._thread.run(self.engine.attribute, request)

    async def stream(self, request: AttributionRequest) -> AsyncIterator[Mapping[str, Any]]:
        """Explain the examples and give each result as soon as it is there, in no order.

        What is wrong with the request as a whole is raised here, before the first line. The lines: what all results
        share, then `{"index", "result"}` or `{"index", "error"}` for each example, then how many there were.
        """
        answer = await self.attribute(request)
        return _lines(answer)

    async def predict(self, request: PredictionRequest) -> PredictionResponse:
        """The model's own answers, with the words behind them where the request asks for those."""
        self.engine.check(request)
        return await self._thread.run(self.engine.predict, request)

    async def load(self, ref: str) -> ModelInfo:
        """Load a model and let it answer once, so that it is ready for requests."""
        await self._thread.run(self.engine.warm, ref)
        return await self.info(ref)

    async def unload(self, ref: str) -> None:
        """Put a model out of memory. Raises ModelNotFound where it is not in memory."""
        await self._thread.run(self.engine.unload, ref)

    async def info(self, ref: str) -> ModelInfo:
        """Facts about a model, which is loaded if it has to be."""
        return await self._thread.run(self.engine.info, ref)

    def loaded(self) -> list[ModelInfo]:
        """The models in memory, the one asked last at the end."""
        return self.engine.loaded()

    def is_loaded(self, ref: str) -> bool:
        """True when a reference's model is in memory. Raises ModelNotFound for one that is not offered here."""
        return self.engine.is_loaded(ref)


async def _lines(answer: AttributionResponse) -> AsyncIterator[Mapping[str, Any]]:
    yield answer.model_dump(mode="json", exclude={"results", "cached"})
    for index, result in enumerate(answer.results):
        yield {"index": index, "result": result.model_dump(mode="json")}
    yield {"done": True, "completed": len(answer.results), "failed": 0}
