"""The models of the student service: which are in memory, which one each alias names, and how an alias moves.

A new model is loaded and has answered once before its alias names it; until then, and for good if it cannot be loaded,
the old one serves. Room is made before a model is read: the one asked longest ago goes first, never one that is in use
or that a pinned alias names. All state lives on the event loop; the loader's thread reads files and returns a model,
and a request keeps the model that it began with. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from services.student.record import Record
from services.student.served import Served
from services.student.settings import Settings
from understudy import tracing
from understudy.artifacts import ArtifactStore
from understudy.batching import ModelThread
from understudy.drift import Profile
from understudy.errors import ArtifactNotFound, ModelError, ModelNotFound, Overloaded, Unavailable, UnderstudyError
from understudy.models.source import Source
from understudy.serving.engines import least_bytes, load_engine

__all__ = ["Models"]

log = structlog.get_logger()


class Models:
    """Models by artifact id, the one asked last at the end, and the aliases that are followed.

    An alias is followed from its first use until its model is put out. The default alias always is, and so are the
    canary and the shadow where they have a share: they are pinned, and their models are never put out. While a pinned
    alias moves, its old and its new model are both there.
    """

    def __init__(self, settings: Settings, store: ArtifactStore | None = None) -> None:
        self.settings = settings
        self.store = store or ArtifactStore(settings.artifacts)
        self.problems: dict[str, str] = {}  # alias -> why it does not serve what it names
        self._models: OrderedDict[str, Served] = OrderedDict()
        self._served: dict[str, str] = {}  # alias -> artifact id
        self._failed: dict[str, tuple[float, Exception]] = {}  # artifact id -> when and why it did not load
        self._loading: dict[str, asyncio.Task[Served]] = {}  # artifact id -> what its first caller began
        self._moving: dict[str, asyncio.Task[None]] = {}  # alias -> the look-up or move that is under way
        self._loader = ModelThread(settings.max_loading)
        self._users: Counter[str] = Counter()  # artifact id -> requests that it has to answer
        self._coming: dict[str, int] = {}  # artifact id -> bytes of a model that is being read
        self._pinned = {settings.alias}
        self._pinned |= {settings.canary} if settings.canary_share else set()
        self._pinned |= {settings.shadow} if settings.shadow_share else set()
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow the aliases; the default one's model is loaded at once."""
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        tasks = [*self._moving.values(), *self._loading.values(), *([self._following] if self._following else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._loader.close)

    def ready(self) -> Served:
        """The default alias's model. Raises Unavailable, which says what to do, where there is none."""
        alias = self.settings.alias
        if self._following is None or self._following.done():
            raise Unavailable("the task that follows the aliases has ended: restart the service")
        if alias not in self._served:
            raise Unavailable(f"no model is served yet: {self.problems.get(alias, f'{alias} is being loaded')}")
        return self._models[self._served[alias]]

    def served(self, alias: str) -> Served | None:
        """The model that a followed alias names, if it is in memory."""
        return self._models.get(self._served.get(alias, ""))

    def loaded(self) -> list[Served]:
        return list(self._models.values())

    @contextmanager
    def in_use(self, model: Served) -> Iterator[None]:
        """The model stays in memory until the block ends."""
        self._users[model.artifact] += 1
        try:
            yield
        finally:
            self._users[model.artifact] -= 1
            if not self._users[model.artifact]:
                del self._users[model.artifact]
                self._trim()

    async def check_loaded(self, name: str) -> None:
        """Raise Unavailable for a model that is not in memory, ModelNotFound for a name of none."""
        if self._served.get(name, name) not in self._models:
            await self._loader.run(self._resolve, name)
            raise Unavailable(f"model '{name}' is not in memory: name it in a request, which loads it")

    def aliases(self, model: Served) -> tuple[str, ...]:
        """The followed aliases that a model answers to."""
        return tuple(sorted(alias for alias, artifact in self._served.items() if artifact == model.artifact))

    async def get(self, name: str) -> Served:
        """The model behind an artifact id or alias, loaded if it has to be.

        Raises ModelNotFound, which lists the aliases, Overloaded, or what is wrong with the artifact: ModelError where
        there is no room for it.
        """
        known = self._served.get(name, name)
        if known in self._models:
            self._models.move_to_end(known)
            return self._models[known]
        artifact = await self._loader.run(self._resolve, name)
        model = await self._load(artifact)
        # An alias that is followed by now may have moved on already; it is not for this request to move it back.
        self._keep(model, alias=None if name == artifact or name in self._served else name)
        return model

    async def _follow(self) -> None:
        """Look up every followed alias, again and again; one that takes long to move holds up no other."""
        while True:
            for alias in {*self._pinned, *self._served} - self._moving.keys():
                self._moving[alias] = asyncio.create_task(self._refresh(alias))
            self._trim()  # a model whose callers have all left has nobody else to do it
            await asyncio.sleep(self.settings.refresh_seconds)

    async def _refresh(self, alias: str) -> None:
        """Move an alias where it has moved in the store. What cannot be served is a problem, never the end."""
        try:
            # Not on the loader's thread: while a large model is being read, other aliases may move.
            artifact = await asyncio.to_thread(self._resolve, alias)
            if self._served.get(alias) != artifact:
                parent = (await asyncio.to_thread(self._moved_in, alias)) if tracing.is_on() else None
                with tracing.span("serve", parent=parent, alias=alias, artifact=artifact):
                    moving = alias in self._pinned
                    self._keep(self._models.get(artifact) or await self._load(artifact, moving=moving), alias)
                self._trim()
            self.problems.pop(alias, None)
        except UnderstudyError as error:
            self._note(alias, error.message)
        except Exception as error:  # stores and models have errors of their own, and the service outlives them
            self._note(alias, f"{type(error).__name__}: {error}")
        finally:
            del self._moving[alias]

    def _moved_in(self, alias: str) -> str | None:
        """The span in which an alias was moved last: a job's, where one has published."""
        moves = self.store.moves.history(alias)
        return moves[-1].traceparent if moves else None

    def _note(self, alias: str, problem: str) -> None:
        problem = _without_place(problem, str(self.store.root), "the store")
        if self.problems.get(alias) != problem:
            log.warning("alias_not_served", alias=alias, still=self._served.get(alias), problem=problem)
        self.problems[alias] = problem

    def _resolve(self, name: str) -> str:
        try:
            artifact = self.store.resolve(name)
        except ArtifactNotFound as error:
            hint = "a job that succeeds sets its alias, or publish a model and point the alias at it"
            raise ModelNotFound(f"{error.message}: {hint}", param="model") from error
        if not artifact.startswith("model-"):
            raise ModelNotFound(f"'{name}' is no model but a {artifact.partition('-')[0]}", param="model")
        return artifact

    async def _load(self, artifact: str, *, moving: bool = False) -> Served:
        """Load once for everybody who waits. A failure is remembered for a while: reading is not cheap.

        What a pinned alias is `moving` to is read beside what it names now, whatever room there is.
        """
        if artifact in self._models:  # it came while this caller was looking its name up
            return self._models[artifact]
        when, error = self._failed.get(artifact, (0.0, None))
        if error is not None and time.monotonic() < when + self.settings.retry_seconds:
            raise error.with_traceback(None)
        if artifact not in self._loading:
            self._loading[artifact] = asyncio.create_task(self._open(artifact, moving))
        # One caller may leave; the others still wait for the same task.
        return await asyncio.shield(self._loading[artifact])

    async def _open(self, artifact: str, moving: bool) -> Served:
        started, folder = time.monotonic(), Path(artifact)
        try:
            folder, size = await self._loader.run(self._fetch, artifact)
            self._admit(artifact, size, moving)
            self._coming[artifact] = size
            model = await self._loader.run(self._read, artifact, folder)
            self._admit(artifact, model.bytes, moving)
        except Exception as error:
            if isinstance(error, UnderstudyError):
                error.message = _without_place(error.message, str(folder), artifact)
            if not getattr(error, "retryable", False):
                self._failed[artifact] = (time.monotonic(), error)
            raise
        finally:
            self._coming.pop(artifact, None)
            del self._loading[artifact]
        self._failed.pop(artifact, None)
        self._keep(model, alias=None)  # here, and not only by those who wait: there may be nobody left
        log.info(
            "model_loaded",
            artifact=artifact,
            precision=model.info.precision,
            seconds=round(time.monotonic() - started, 3),
        )
        return model

    def _fetch(self, artifact: str) -> tuple[Path, int]:
        """The folder of a model whose bytes are right, and the least that it can take in memory."""
        folder = self.store.folder(artifact)
        return folder, _least_bytes(folder, self.settings.engine) if self.settings.max_model_bytes else 0

    def _read(self, artifact: str, folder: Path) -> Served:
        engine = load_engine(folder, self.settings.device, artifact, engine=self.settings.engine)
        engine.bound(self.settings.max_padded_tokens)
        tokenizer = Source.find(str(folder), None).tokenizer()
        info = engine.info()
        record = Record(info.task.labels if info.task else (), _profile(folder), self.settings.drift_window)
        return Served(info, self.store.get(artifact).created_at, engine, tokenizer, record)

    def _admit(self, artifact: str, size: int, moving: bool) -> None:
        """Make room for a model of so many bytes. Raises ModelError where it can never have it, Overloaded for now."""
        most = self.settings.max_model_bytes
        if not most:
            return
        told = f"'{artifact}' takes {size:,} bytes, and this service keeps models of {most:,} bytes together"
        if size > most:
            raise ModelError(f"{told}: choose a smaller one, or raise max_model_bytes", param="model")
        others = {name: coming for name, coming in self._coming.items() if name != artifact}
        self._trim(coming=size + sum(others.values()))
        if moving or self._bytes + sum(others.values()) + size <= most:
            return
        pinned = sum(model.bytes for name, model in self._models.items() if name in self._named_by_pinned)
        if pinned + size > most:
            raise ModelError(
                f"{told}, of which those of {', '.join(sorted(self._pinned))} take {pinned:,}: choose a smaller one, "
                "or raise max_model_bytes",
                param="model",
            )
        raise Overloaded(f"{told}, and those in memory are in use: try again in 1 s", retry_after=1)

    def _keep(self, model: Served, alias: str | None) -> None:
        """Make a loaded model the one that answers, in one step that no request can see half of."""
        self._models[model.artifact] = model
        self._models.move_to_end(model.artifact)
        if alias is not None and self._served.get(alias) != model.artifact:
            log.info("alias_moved", alias=alias, artifact=model.artifact, before=self._served.get(alias))
            self._served[alias] = model.artifact

    @property
    def _bytes(self) -> int:
        return sum(model.bytes for model in self._models.values())

    @property
    def _named_by_pinned(self) -> set[str]:
        return {self._served[alias] for alias in self._pinned if alias in self._served}

    def _trim(self, coming: int = 0) -> None:
        """Put out what is asked least until the others, and as many `coming` bytes, fit; as far as that can be."""
        most, pinned = self.settings.max_model_bytes, self._named_by_pinned
        while len(self._models) > self.settings.max_models or (most and self._bytes + coming > most):
            name = next((name for name in self._models if name not in pinned and name not in self._users), None)
            if name is None:
                return
            del self._models[name]
            self._served = {alias: artifact for alias, artifact in self._served.items() if artifact != name}
            kept = {*self._pinned, *self._served}
            self.problems = {alias: text for alias, text in self.problems.items() if alias in kept}
            log.info("model_put_out", artifact=name)


def _without_place(text: str, place: str, name: str) -> str:
    """A message that calls a folder by a name: where models lie is not for callers, and `/readyz` is open to all."""
    text = text.replace(place, name)
    # Libraries' messages are cut, and so may be a path at their end.
    begun = next((n for n in range(len(place), 4, -1) if text.endswith(place[:n])), 0)
    return f"{text[: len(text) - begun]}..." if begun else text


def _least_bytes(folder: Path, engine: str) -> int:
    """What a model takes at the least, before it is known which engine will run it; 0 where its files say nothing."""
    try:
        return least_bytes(folder, engine)
    except ModelError:
        return 0  # loading it will say what is wrong with it


def _profile(folder: Path) -> Profile | None:
    """What a model is compared with, as its report holds it. A report that is broken has no profile."""
    report = folder / "report.json"
    try:
        return Profile.of_report(json.loads(report.read_bytes())) if report.is_file() else None
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        log.warning("profile_not_read", artifact=folder.name, error=str(error))
        return None
