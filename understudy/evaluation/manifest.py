"""The manifest of a report: all that is needed to train one of its arms again, and the figures that must come out.

Files are named by artifact and content and not by place, so that a report can be moved; without a store they are paths
with the hash of what they held. Knows nothing of training, and reads files only to hash them. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from understudy.artifacts import ArtifactStore, file_sha256
from understudy.environment import Environment
from understudy.errors import ArtifactCorrupt, ArtifactNotFound, InvalidRequest
from understudy.schemas import TaskSpec
from understudy.training.spec import TrainResult, TrainSpec

__all__ = ["ArmRecord", "Data", "FileRef", "Manifest", "TeacherRecord", "answers_hash", "settings_of", "weights_of"]

PLACES = frozenset({"task", "train", "annotated", "unlabelled", "validation", "artifacts"})
"""The fields of a TrainSpec that all arms have in common, or that say where a file is."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class FileRef(_Frozen):
    """A file by its content: `path` inside the artifact, or on a disk where `artifact` is None."""

    artifact: str | None = None
    path: str
    sha256: str

    @classmethod
    def of(cls, path: Path, artifact: str | None = None) -> FileRef:
        """The file as it is now; raises OSError where there is none."""
        return cls(artifact=artifact, path=path.name if artifact else str(path.resolve()), sha256=file_sha256(path))

    def find(self, store: ArtifactStore | None) -> Path:
        """The file itself, once its content is that which was recorded.

        Raises ArtifactNotFound where it is missing, ArtifactCorrupt where it differs.
        """
        place = Path(self.path)
        if self.artifact:
            if store is None:
                raise ArtifactNotFound(f"'{self.path}' is in artifact '{self.artifact}': name the store that holds it")
            place = store.folder(self.artifact) / self.path
        if not place.is_file():
            raise ArtifactNotFound(f"'{self}' is missing")
        if (found := file_sha256(place)) != self.sha256:
            raise ArtifactCorrupt(f"'{self}' is not what was trained on: its SHA-256 is {found}, not {self.sha256}")
        return place

    def __str__(self) -> str:
        return f"{self.artifact}/{self.path}" if self.artifact else self.path


class Data(_Frozen):
    """What every arm of a report read. `annotated`: the rows of `train` carry a teacher's words and probabilities."""

    train: tuple[FileRef, ...] = Field(min_length=1)
    annotated: bool
    unlabelled: tuple[FileRef, ...] = ()
    validation: FileRef
    test: FileRef


class TeacherRecord(_Frozen):
    """Who annotated. What it said is in the shards, so that no arm needs the teacher itself.

    `reference` is an artifact id where it was fine-tuned, or named by an alias; else a name, which may come to mean
    other weights.
    """

    model: str
    reference: str | None = None
    finetuned: bool = False
    fingerprint: str | None = None


class ArmRecord(_Frozen):
    """One training: `settings` are the fields of its TrainSpec that `Data` and the task do not have.

    The figures are what a second training must give: `weights` are the SHA-256 of the model's weight files by name,
    `answers_sha256` is of the test split's answers (`answers_hash`). Those of the test split are None until it was
    answered. `start` is the fingerprint of the untrained model; it and `environment` are None where the training did
    not say.
    """

    recipe: str
    seed: int
    size: int | None = None
    artifact: str | None = None
    settings: Mapping[str, Any]
    environment: Environment | None = None
    start: str | None = None
    weights: Mapping[str, str]
    validation_accuracy: float
    test_accuracy: float | None = None
    answers_sha256: str | None = None

    @classmethod
    def of(
        cls,
        spec: TrainSpec,
        result: TrainResult,
        weights: Mapping[str, str],
        *,
        size: int | None = None,
        artifact: str | None = None,
    ) -> ArmRecord:
        return cls(
            recipe=spec.recipe,
            seed=spec.seed,
            size=size,
            artifact=artifact,
            settings=settings_of(spec, result),
            environment=result.environment,
            start=result.start,
            weights=weights,
            validation_accuracy=result.validation_accuracy,
        )

    @property
    def name(self) -> str:
        return f"{self.recipe}, seed {self.seed}" + (f", {self.size} rows" if self.size else "")

    @property
    def by_clock(self) -> bool:
        """Whether wall time ended it and moved its learning rate: such a training cannot be had again bit by bit."""
        return self.settings.get("hyperparameters", {}).get("seconds") is not None


class Manifest(_Frozen):
    """Everything that a report's arms came from."""

    task: TaskSpec
    data: Data
    arms: tuple[ArmRecord, ...]
    teacher: TeacherRecord | None = None

    def answered(self, recipe: str, seed: int, size: int | None, accuracy: float, given: Sequence[str]) -> Manifest:
        """With one arm's figures on the test split; unchanged where there is no such arm."""
        figures = {"test_accuracy": accuracy, "answers_sha256": answers_hash(given)}
        key = (recipe, seed, size)
        arms = (one.model_copy(update=figures) if _key(one) == key else one for one in self.arms)
        return self.model_copy(update={"arms": tuple(arms)})

    def arm(self, recipe: str, seed: int | None = None, size: int | None = None) -> ArmRecord:
        """One arm, its first seed unless one is named. Raises InvalidRequest, which lists what there is."""
        found = [one for one in self.arms if (one.recipe, one.size) == (recipe, size) and seed in (None, one.seed)]
        if not found:
            named = "; ".join(one.name for one in self.arms)
            asked = f"{recipe}{'' if seed is None else f', seed {seed}'}{f', {size} rows' if size else ''}"
            param = "arm" if recipe not in {one.recipe for one in self.arms} else "seed"
            raise InvalidRequest(f"the report has no arm '{asked}' (it has: {named})", param=param)
        return found[0]

    def spec(self, arm: ArmRecord, store: ArtifactStore | None) -> TrainSpec:
        """The training as it was asked for, every file found and its content checked.

        One that had a time in place of steps takes as many steps as it took then, and its learning rate follows these.

        Raises ArtifactNotFound or ArtifactCorrupt for a file, InvalidRequest for a setting that this version of
        Understudy does not know and would leave out.
        """
        unknown = sorted(set(arm.settings) - (set(TrainSpec.model_fields) - PLACES))
        if unknown:
            raise InvalidRequest(
                f"the report's trainings have settings that this version does not know: {', '.join(unknown)} "
                f"(it was made with understudy {_version(arm)})",
                param="report",
            )
        return TrainSpec(
            **_by_steps(arm),
            task=self.task,
            train=tuple(one.find(store) for one in self.data.train),
            annotated=self.data.annotated,
            unlabelled=tuple(one.find(store) for one in self.data.unlabelled),
            validation=self.data.validation.find(store),
            artifacts=str(store.root) if store else None,
        )


def _by_steps(arm: ArmRecord) -> dict[str, Any]:
    """A record's settings, those of a training by the clock as one of the steps that it took."""
    if not arm.by_clock:
        return dict(arm.settings)
    asked = {**arm.settings["hyperparameters"], "seconds": None}
    asked |= {
        "n_epochs": arm.settings["stop_after"],
        "max_steps": arm.settings["stop_after"],
    }  # an epoch is a step or more
    return {**arm.settings, "hyperparameters": asked, "stop_after": None}


def settings_of(spec: TrainSpec, result: TrainResult) -> dict[str, Any]:
    """A training's own settings, with the step at which it ended in place of a limit of time.

    `max_seconds` would end it elsewhere on another machine, and a smaller `max_steps` would bend the learning rate's
    schedule.
    """
    settings = spec.model_dump(mode="json", exclude={*PLACES, "max_seconds"})
    early = result.steps < result.planned_steps or spec.hyperparameters.seconds is not None
    return settings | ({"stop_after": result.steps} if early else {})


def weights_of(files: Mapping[str, str] | Path) -> dict[str, str]:
    """The SHA-256 of a model's weight files by name: of an artifact's `files`, or of a folder."""
    if isinstance(files, Path):
        return {path.name: file_sha256(path) for path in sorted(files.glob("*.safetensors"))}
    return {name: digest for name, digest in sorted(files.items()) if name.endswith(".safetensors")}


def answers_hash(given: Iterable[str]) -> str:
    """The SHA-256 of answers in the order of their rows."""
    return hashlib.sha256(json.dumps(list(given)).encode("ascii")).hexdigest()


def _key(arm: ArmRecord) -> tuple[str, int, int | None]:
    return arm.recipe, arm.seed, arm.size


def _version(arm: ArmRecord) -> str:
    return arm.environment.versions.get("understudy", "of another version") if arm.environment else "of another version"
