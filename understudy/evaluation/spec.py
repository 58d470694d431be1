"""What the evaluation stage is asked. Plain values: no torch, no files read."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from understudy.schemas import TaskSpec

__all__ = ["ArmResult", "EvaluateSpec", "RowCounts", "TeacherFacts"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class ArmResult(_Frozen):
    """One trained student: a recipe with a seed. `artifact` is the id under which its model was stored.

    `batch_size` examples went into each step. `without_words` counts training rows that lacked the teacher's words,
    `truncated` those that were too long for the student's window, as the training's own result says.
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
    truncated: int = 0


class TeacherFacts(_Frozen):
    """`predictions` are JSON lines of `schemas.Prediction`, one for each test row, in its order.

    `trained_rows` is how many rows it was fine-tuned on, where that is known and may differ from the students'.
    """

    model: str
    finetuned: bool
    parameters: int
    predictions: Path
    latency_ms: float | None = None
    trained_rows: int | None = None


class RowCounts(_Frozen):
    train: int
    validation: int
    test: int
    rejected: int = 0


class EvaluateSpec(_Frozen):
    """`test` is a Parquet file of plain examples, `annotated` the training shards with the teacher's words.

    Where no teacher took part there are none: `train` are the plain training rows. `notes` are what the job itself has
    to say of its results.
    """

    job_id: str
    task: TaskSpec
    test: Path
    train: tuple[Path, ...] = ()
    annotated: tuple[Path, ...] = ()
    teacher: TeacherFacts | None = None
    notes: tuple[str, ...] = ()
    arms: tuple[ArmResult, ...] = Field(min_length=1)
    rows: RowCounts
    top_k: int = Field(default=5, ge=1, le=100)
    attribution_method: str = "saliency"
    device: str = "auto"
