"""Versions of the models in a store: what was published, by which job and with which verdict, and which one serves.

`promote` points an alias at a version, `rollback` back at the one before. Both refuse what could not answer in its
place: a version that is not there, whose bytes differ from its manifest, or that answers another task. Whoever serves
an alias notices that it has moved, and tries the new model before it answers. Imports no torch.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from understudy.aliases import Move, standing
from understudy.artifacts import Artifact, ArtifactStore, check_alias
from understudy.client import _Client
from understudy.errors import ArtifactCorrupt, ArtifactNotFound, Conflict, ModelNotFound
from understudy.evaluation.report import Report
from understudy.schemas import TaskSpec

__all__ = ["Shown", "Version", "Versions", "VersionsClient"]


class Version(BaseModel):
    """A published model. What its report would say is None where it has none.

    `aliases` name it now. `accuracy` is that of its recipe on the test split, a share, between `low` and `high` with
    95 % confidence; `verdict` is the report's sentence on it.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    created: int = Field(description="Seconds since 1970")
    bytes: int
    aliases: tuple[str, ...]
    job: str | None = None
    recipe: str | None = None
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str | None = None
    problem: str | None = Field(default=None, description="Why its report cannot be read")


class Shown(Version):
    """A version by its id or an alias.

    `history` are the alias' moves, the first one first, `back` what it can go back to, step by step.
    """

    alias: str | None = None
    task: TaskSpec | None = None
    history: tuple[Move, ...] = ()
    back: tuple[str, ...] = ()


class Versions:
    """The models of one store."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store

    def all(self) -> list[Version]:
        """Every published model and every one that an alias names, the newest first."""
        named = self._named()
        found = [one for one in self.store.list("model") if one.meta.get("role") == "published" or one.id in named]
        return [Version(**self._facts(one, named)) for one in reversed(found)]

    def show(self, name: str) -> Shown:
        """A model by its id or an alias. Raises ModelNotFound."""
        artifact = self._model(name)
        alias = None if name == artifact.id else name
        history = self.store.moves.history(alias) if alias else []
        return Shown(
            **self._facts(artifact, self._named()),
            alias=alias,
            task=self._task(artifact),
            history=tuple(history),
            back=tuple(reversed(standing(history)[:-1])),
        )

    def promote(
        self, alias: str, version: str, *, by: str | None, force: bool = False, expected: str | None = None
    ) -> Move:
        """Point `alias` at a version, named by its id or by another alias; one that is there already stays.

        Raises InvalidRequest for a name that no alias can have, ModelNotFound or ArtifactCorrupt for a version that
        cannot serve, and Conflict for one that answers another task than the alias' present one, unless `force`, or
        where the alias does not name `expected`.
        """
        check_alias(alias)
        artifact = self._sound(version)
        if not force:
            self._check_task(alias, artifact)
        return self.store.set_alias(alias, artifact.id, how="promote", by=by, expected=expected)

    def rollback(self, alias: str, *, by: str | None, expected: str | None = None) -> Move:
        """Point `alias` at the version before its present one; again, at the one before that.

        Raises ModelNotFound for no alias or where that version is gone, ArtifactCorrupt where it is damaged, and
        Conflict where there is none before or the alias does not name `expected`.
        """
        check_alias(alias)
        self._model(alias)

        def check(version: str) -> None:
            self.store.use(version)  # from here on nobody removes it
            self._sound(version)

        return self.store.moves.rollback(alias, by=by, check=check, expected=expected)

    def _named(self) -> dict[str, list[str]]:
        """The aliases of each artifact."""
        named: dict[str, list[str]] = {}
        for alias, artifact in self.store.aliases().items():
            named.setdefault(artifact, []).append(alias)
        return named

    def _model(self, name: str) -> Artifact:
        try:
            artifact = self.store.get(self.store.resolve(name))
        except ArtifactNotFound as error:
            raise ModelNotFound(error.message, param="model") from error
        if artifact.kind != "model":
            raise ModelNotFound(f"'{artifact.id}' is a {artifact.kind} and no model", param="model")
        return artifact

    def _sound(self, name: str) -> Artifact:
        """A model whose every byte is what it was when it was published."""
        artifact = self._model(name)
        if "config.json" not in artifact.files:
            raise ModelNotFound(f"'{artifact.id}' holds no model: there is no config.json in it", param="model")
        # A store of its own: one that has read the artifact before would not look at it again, and one that shares
        # its copies of remote files would take them from under whoever reads them.
        with tempfile.TemporaryDirectory() as copies:
            ArtifactStore(self.store.url, cache=Path(copies)).folder(artifact.id)
        return artifact

    def _check_task(self, alias: str, artifact: Artifact) -> None:
        before = self.store.moves.get(alias)
        if before is None or before == artifact.id:
            return
        try:
            present = self._task(self.store.get(before))
        except (ArtifactNotFound, ArtifactCorrupt):
            return  # what cannot be read serves nobody, and nobody relies on its task
        wanted = self._task(artifact)
        if _asked(present) != _asked(wanted):
            raise Conflict(
                f"'{artifact.id}' answers another task ({_said(wanted)}) than '{alias}' does now ({_said(present)}): "
                "whoever asks the alias would get answers that it does not know. Force it if that is meant",
                param="model",
            )

    def _facts(self, artifact: Artifact, named: dict[str, list[str]]) -> dict[str, Any]:
        meta = artifact.meta
        facts: dict[str, Any] = {
            "id": artifact.id,
            "created": artifact.created_at,
            "bytes": artifact.bytes,
            "aliases": tuple(named.get(artifact.id, ())),
            "job": meta.get("job_id"),
            "recipe": meta.get("recipe"),
        }
        if "report.json" not in artifact.files:
            return facts
        try:
            report = Report.model_validate_json(self._file(artifact, "report.json"))
            arm = report.student
        except (ValidationError, StopIteration, FileNotFoundError) as error:
            return facts | {"problem": f"report.json cannot be read: {type(error).__name__}"}
        figures = {"accuracy": arm.accuracy, "low": arm.low, "high": arm.high, "verdict": report.headline}
        return facts | {"job": report.job_id, "recipe": report.published.recipe} | figures

    def _task(self, artifact: Artifact) -> TaskSpec | None:
        """Its task; None where it says nothing of it. Raises ArtifactCorrupt."""
        if "task.json" not in artifact.files:
            return None
        try:
            return TaskSpec.model_validate_json(self._file(artifact, "task.json"))
        except (ValidationError, FileNotFoundError) as error:
            raise ArtifactCorrupt(f"'task.json' of '{artifact.id}' cannot be read: publish it again") from error

    def _file(self, artifact: Artifact, name: str) -> bytes:
        content: bytes = self.store.fs.cat_file(f"{self.store.root}/{artifact.id}/{name}")
        return content


class VersionsClient(_Client):
    """The versions of an orchestrator's store. `by` is not sent: the orchestrator knows whose key it is."""

    def all(self) -> list[Version]:
        return [Version.model_validate(one) for one in self._call("GET", "/v1/versions")["data"]]

    def show(self, name: str) -> Shown:
        return Shown.model_validate(self._call("GET", f"/v1/versions/{name}"))

    def promote(
        self, alias: str, version: str, *, by: str | None, force: bool = False, expected: str | None = None
    ) -> Move:
        del by
        body = {"model": version, "force": force, "expected": expected}
        return Move.model_validate(self._call("POST", f"/v1/models/{alias}/promote", json=body))

    def rollback(self, alias: str, *, by: str | None, expected: str | None = None) -> Move:
        del by
        return Move.model_validate(self._call("POST", f"/v1/models/{alias}/rollback", json={"expected": expected}))


def _asked(task: TaskSpec | None) -> Any:
    """What callers rely on: the kind of answer, and which answers there are. A template is the model's own affair."""
    return None if task is None else (task.kind, frozenset(task.labels))


def _said(task: TaskSpec | None) -> str:
    if task is None:
        return "unknown: there is no task.json in it"
    if not task.labels:
        return task.kind
    shown = ", ".join(json.dumps(label, ensure_ascii=False) for label in task.labels[:5])
    return f"{task.kind}: {shown}{' ...' if len(task.labels) > 5 else ''}"
