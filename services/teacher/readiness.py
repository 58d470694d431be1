"""Is the service ready: it is not about to end, the model's thread lives and the default model has answered once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from services.teacher.desk import Desk
from understudy.errors import Unavailable, UnderstudyError
from understudy.schemas import ModelInfo

__all__ = ["Readiness"]

log = structlog.get_logger()


class Readiness:
    """Loads the default model in the background; a failed attempt is repeated when somebody asks again."""

    def __init__(self, desk: Desk, draining: Callable[[], bool]) -> None:
        self._desk = desk
        self._draining = draining
        self._ref = desk.settings.model
        self._warming = self._start()

    def details(self) -> dict[str, Any]:
        """What a service that is ready says of itself; raises Unavailable with the reason why it is not."""
        if self._draining():
            raise Unavailable("the service is shutting down")
        if not self._desk.alive:
            raise Unavailable("the model thread has ended: restart the service")
        if self._warming is not None:
            self._check(self._warming)
        return {"model": self._ref, "loaded": [model.id for model in self._desk.loaded()]}

    async def stop(self) -> None:
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)

    def _start(self) -> asyncio.Task[ModelInfo] | None:
        return None if self._ref is None else asyncio.create_task(self._desk.load(self._ref))

    def _check(self, warming: asyncio.Task[ModelInfo]) -> None:
        if not warming.done():
            raise Unavailable(f"the default model '{self._ref}' is being loaded")
        error = warming.exception()
        if error is not None:
            self._warming = self._start()
            log.error("warm_up_failed", model=self._ref, exc_info=error)
            reason = error.message if isinstance(error, UnderstudyError) else "the service's log has the cause"
            raise Unavailable(f"the default model '{self._ref}' could not be loaded: {reason}")
