"""What the evaluation stage is asked. Plain values: no torch, no files read."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from understudy.evaluation.manifest import Manifest
from understudy.schemas import Faithfulness, TaskSpec

__all__ = ["ArmResult", "EvaluateSpec", "MapFaithfulness", "RowCounts", "Searched", "TeacherFacts"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class ArmResult(_Frozen):
    """One trained student: a recipe with a seed. `artifact` is the id under which its model was stored.

    `batch_size` examples went into each step. `without_words` counts training rows that lacked the teacher's words,
    `without_distribution` those that lacked probabilities that the student could follow where its recipe does,
    `truncated` those that were too long for the student's window, as the training's own result says. `size` is the
    number of labelled training rows where the arm is a point of the learning curve, None where it had all of them.
    `tokens` are those that its training read.
    """

    recipe: str
    seed: int
    model: Path
    artifact: str
    validation_accuracy: float
    steps: int
    seconds: float
    candidate: bool
    control_of: str | None = None
    batch_size: int | None = None
    without_words: int = 0
    without_distribution: int = 0
    truncated: int = 0
    size: int | None = None
    tokens: int = 0
    teacher_labelled: int = 0


class TeacherFacts(_Frozen):
    """`predictions` are JSON lines of `schemas.Prediction`, one for each test row, in its order.

    `trained_rows` is how many rows it was fine-tuned on, where that is known and may differ from the students';
    `other_rows`: none of them is one that a student was trained on.
    `training_seconds` is what its fine-tuning took; `annotation_seconds` and `annotation_tokens` what its maps did.
    """

    model: str
    finetuned: bool
    parameters: int
    predictions: Path
    latency_ms: float | None = None
    trained_rows: int | None = None
    other_rows: bool = False
    training_seconds: float | None = None
    annotation_seconds: float | None = None
    annotation_tokens: int | None = None


class RowCounts(_Frozen):
    train: int
    validation: int
    test: int
    rejected: int = 0
    unlabelled: int = 0


class Searched(_Frozen):
    """A candidate that was tried on a short training in one round of a search.

    `kept` ones went on: to the next round, and from the last to be trained in full.
    """

    recipe: str
    validation_accuracy: float
    steps: int
    kept: bool
    round: int = 1


class MapFaithfulness(_Frozen):
    """What the teacher's own answers say of its maps, on a sample of the rows that it annotated.

    `found` holds one figure for each sampled row, by `method`; `random` those of as many random words of the same rows,
    in the same order. `split` says where the rows are from.
    """

    method: str
    found: tuple[Faithfulness, ...] = Field(min_length=1)
    random: tuple[Faithfulness, ...] = Field(min_length=1)
    split: str = "training"

    @model_validator(mode="after")
    def _of_the_same_rows(self) -> Self:
        if len(self.found) != len(self.random):
            raise ValueError(
                f"'{self.method}' was measured on {len(self.found)} rows and random words on {len(self.random)}: "
                "give one figure of each for every row"
            )
        return self


class EvaluateSpec(_Frozen):
    """`test` and `validation` are Parquet files of plain examples, `annotated` the shards with the teacher's words.

    Where no teacher took part there are none: `train` are the plain training rows. `notes` are what the job itself has
    to say of its results. `cut_from_teacher`: every student began as a part of the teacher (`cut:...`).
    `seconds_each`: the wall time that each training had in place of a number of steps.
    """

    job_id: str
    task: TaskSpec
    test: Path
    validation: Path | None = None
    train: tuple[Path, ...] = ()
    annotated: tuple[Path, ...] = ()
    teacher: TeacherFacts | None = None
    cut_from_teacher: bool = False
    seconds_each: float | None = None
    notes: tuple[str, ...] = ()
    arms: tuple[ArmResult, ...] = Field(min_length=1)
    searched: tuple[Searched, ...] = ()
    map_faithfulness: MapFaithfulness | None = None
    manifest: Manifest | None = None
    rows: RowCounts
    top_k: int = Field(default=5, ge=1, le=100)
    attribution_method: str = "saliency"
    device: str = "auto"
