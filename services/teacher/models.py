"""Which models are in memory: loaded once for all who ask, kept while there is room, never taken from under a request.

All state lives on the event loop; the loader's thread reads files. Knows nothing of HTTP and of what models are asked.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from services.teacher.engine import Engine, Model, Place
from understudy.batching import ModelThread
from understudy.errors import ModelError, ModelNotFound, Overloaded
from understudy.schemas import ModelInfo

__all__ = ["Models"]

log = structlog.get_logger()

PATIENCE = 60.0
"""Seconds that a model which is to be loaded waits for the requests of the one that makes room for it."""


@dataclass(eq=False)
class _Held:
    """A model in memory, and how many requests need it now."""

    model: Model
    users: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class Models:
    """Models by artifact id, folder or hub name, the one asked last at the end."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._loading: dict[Place, asyncio.Task[_Held]] = {}
        self._changing = asyncio.Lock()  # one model is loaded or put out at a time
        self._loader = ModelThread(engine.settings.max_queue)

    @property
    def bytes(self) -> int:
        """Of the parameters of all models in memory."""
        return sum(held.model.bytes for held in self._held.values())

    def loaded(self) -> list[ModelInfo]:
        return [held.model.info for held in self._held.values()]

    async def is_loaded(self, ref: str) -> bool:
        """True when what a reference names now is in memory. Raises ModelNotFound where it is not offered."""
        self.engine.permit(ref)
        place = await asyncio.to_thread(self.engine.find, ref)
        held = self._held.get(place.key)
        return held is not None and held.model.place == place

    @asynccontextmanager
    async def use(self, ref: str) -> AsyncIterator[Model]:
        """The model behind a reference, loaded if it has to be; it stays in memory until the block ends.

        Raises ModelNotFound, ModelError for one that cannot be used or has no room, and Overloaded where the models in
        memory have too much to do to make room.
        """
        held = await self._get(ref)
        held.users += 1
        held.idle.clear()
        try:
            yield held.model
        finally:
            held.users -= 1
            if not held.users:
                held.idle.set()

    async def unload(self, ref: str) -> None:
        """Put a model out of memory when its requests have ended. Raises ModelNotFound where it is not there."""
        self.engine.permit(ref)
        place = await asyncio.to_thread(self.engine.find, ref)
        async with self._changing:
            if place.key not in self._held:
                listed = ", ".join(self._held) or "none"
                raise ModelNotFound(f"'{ref}' is not in memory: the models in memory are {listed}", param="model")
            await self._put_out(place.key)

    async def stop(self) -> None:
        """End the loading that is under way, and its thread."""
        tasks = list(self._loading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._loader.close)

    async def _get(self, ref: str) -> _Held:
        self.engine.permit(ref)
        while True:
            place = await asyncio.to_thread(self.engine.find, ref)
            held = self._held.get(place.key)
            if held is None or held.model.place != place:
                if place not in self._loading:
                    self._loading[place] = asyncio.create_task(self._load(place))
                # One caller may leave, and the others still wait. They take it without another look-up: until they
                # have it, nobody uses it, and it would be the first to make room for the next one.
                held = await asyncio.shield(self._loading[place])
            if self._held.get(place.key) is held:  # else it was unloaded meanwhile
                self._held.move_to_end(place.key)
                return held

    async def _load(self, place: Place) -> _Held:
        try:
            async with self._changing:
                there = self._held.get(place.key)
                if there is not None and there.model.place == place:  # it was to make room, and stayed
                    return there
                if there is not None:
                    await self._put_out(place.key)  # it is another version of the same folder
                size: int | None = await self._loader.run(self.engine.size, place)
                await self._make_room(place, size or 0)
                model = await self._loader.run(self.engine.load, place)
                await self._make_room(place, model.bytes)
                held = _Held(model)
                held.idle.set()
                self._held[place.key] = held
        finally:
            del self._loading[place]
        log.info("model_loaded", model=place.key, fingerprint=model.info.fingerprint, bytes=model.bytes)
        return held

    async def _make_room(self, place: Place, size: int) -> None:
        """Put models out before the next one is loaded: a device rarely has room for one more than it may keep.

        The one that was asked longest ago goes first, of those that nobody needs now, if there are any.
        """
        settings = self.engine.settings
        most = settings.max_model_bytes
        if most and size > most:
            raise ModelError(
                f"'{place.key}' takes {size} bytes, and this service keeps models of {most} bytes together: choose a "
                "smaller one, or raise max_model_bytes",
                param="model",
            )
        while len(self._held) >= settings.max_models or (most and self._held and self.bytes + size > most):
            idle = (key for key, held in self._held.items() if not held.users)
            await self._put_out(next(idle, next(iter(self._held))))

    async def _put_out(self, key: str) -> None:
        """Take a model from the table, so that no new request gets it, and free it when the last one has ended."""
        held = self._held.pop(key)
        try:
            async with asyncio.timeout(PATIENCE):
                await held.idle.wait()
        except TimeoutError:
            self._held[key] = held
            raise Overloaded(
                f"the models in memory have too much to do to make room for another: '{key}' has {held.users} requests",
                retry_after=PATIENCE,
            ) from None
        del held
        await self._loader.run(self.engine.free)
        log.info("model_put_out", model=key)
