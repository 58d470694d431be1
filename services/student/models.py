"""The models of the student service: which are in memory, which one each alias names, and how an alias moves.

A new model is loaded and has answered once before its alias names it; until then, and for good if it cannot be loaded,
the old one serves. All state lives on the event loop; the loader's thread reads files and returns a model, and a
request keeps the model that it began with. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from pathlib import Path

import structlog

from services.student.record import Record
from services.student.served import Served
from services.student.settings import Settings
from understudy.artifacts import ArtifactStore
from understudy.batching import ModelThread
from understudy.drift import Profile
from understudy.errors import ArtifactNotFound, ModelError, ModelNotFound, Unavailable, UnderstudyError
from understudy.models.source import Source
from understudy.serving.engines import load_engine

__all__ = ["Models"]

log = structlog.get_logger()


class Models:
    """Models by artifact id, the one asked last at the end, and the aliases that are followed.

    An alias is followed from its first use until its model is put out. The default alias always is, and so is the
    canary where it has a share; their models are never put out.
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
        self._pinned = {settings.alias, *([settings.canary] if settings.canary_share else [])}
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

        Raises ModelNotFound, which lists the aliases, Overloaded, or what is wrong with the artifact.
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
            await asyncio.sleep(self.settings.refresh_seconds)

    async def _refresh(self, alias: str) -> None:
        """Move an alias where it has moved in the store. What cannot be served is a problem, never the end."""
        try:
            # Not on the loader's thread: while a large model is being read, other aliases may move.
            artifact = await asyncio.to_thread(self._resolve, alias)
            if self._served.get(alias) != artifact:
                self._keep(self._models.get(artifact) or await self._load(artifact), alias)
            self.problems.pop(alias, None)
        except UnderstudyError as error:
            self._note(alias, error.message)
        except Exception as error:  # stores and models have errors of their own, and the service outlives them
            self._note(alias, f"{type(error).__name__}: {error}")
        finally:
            del self._moving[alias]

    def _note(self, alias: str, problem: str) -> None:
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

    async def _load(self, artifact: str) -> Served:
        """Load once for everybody who waits. A failure is remembered for a while: reading is not cheap."""
        if artifact in self._models:  # it came while this caller was looking its name up
            return self._models[artifact]
        when, error = self._failed.get(artifact, (0.0, None))
        if error is not None and time.monotonic() < when + self.settings.retry_seconds:
            raise error.with_traceback(None)
        if artifact not in self._loading:
            self._loading[artifact] = asyncio.create_task(self._open(artifact))
        # One caller may leave; the others still wait for the same task.
        return await asyncio.shield(self._loading[artifact])

    async def _open(self, artifact: str) -> Served:
        started = time.monotonic()
        try:
            model = await self._loader.run(self._read, artifact)
        except Exception as error:
            if not getattr(error, "retryable", False):
                self._failed[artifact] = (time.monotonic(), error)
            raise
        finally:
            del self._loading[artifact]
        self._failed.pop(artifact, None)
        self._keep(model, alias=None)  # here, and not only by those who wait: there may be nobody left
        log.info("model_loaded", artifact=artifact, seconds=round(time.monotonic() - started, 3))
        return model

    def _read(self, artifact: str) -> Served:
        folder = self.store.folder(artifact)
        engine = load_engine(folder, self.settings.device, artifact, engine=self.settings.engine)
        tokenizer = Source.find(str(folder), None).tokenizer()
        info = engine.info()
        record = Record(info.task.labels if info.task else (), _profile(folder), self.settings.drift_window)
        model = Served(info, self.store.get(artifact).created_at, engine, tokenizer, record)
        most = self.settings.max_model_bytes
        if most and model.bytes > most:
            raise ModelError(
                f"'{artifact}' takes {model.bytes} bytes, and this service keeps models of {most} bytes together: "
                "choose a smaller one, or raise max_model_bytes",
                param="model",
            )
        return model

    def _keep(self, model: Served, alias: str | None) -> None:
        """Make a loaded model the one that answers, in one step that no request can see half of."""
        self._models[model.artifact] = model
        self._models.move_to_end(model.artifact)
        if alias is not None and self._served.get(alias) != model.artifact:
            log.info("alias_moved", alias=alias, artifact=model.artifact, before=self._served.get(alias))
            self._served[alias] = model.artifact
        self._make_room()

    @property
    def _too_large(self) -> bool:
        most = self.settings.max_model_bytes
        return bool(most) and sum(model.bytes for model in self._models.values()) > most

    def _make_room(self) -> None:
        pinned = {self._served.get(alias) for alias in self._pinned}
        while len(self._models) > self.settings.max_models or self._too_large:
            name = next((name for name in self._models if name not in pinned), None)
            if name is None:
                return
            del self._models[name]
            self._served = {alias: artifact for alias, artifact in self._served.items() if artifact != name}
            kept = {*self._pinned, *self._served}
            self.problems = {alias: text for alias, text in self.problems.items() if alias in kept}
            log.info("model_put_out", artifact=name)


def _profile(folder: Path) -> Profile | None:
    """What a model is compared with, as its report holds it. A report that is broken has no profile."""
    report = folder / "report.json"
    try:
        return Profile.of_report(json.loads(report.read_bytes())) if report.is_file() else None
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        log.warning("profile_not_read", artifact=folder.name, error=str(error))
        return None
