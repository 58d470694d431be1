"""What a training stage is asked, says on the way and answers. Plain values: no torch, no files read."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from understudy.environment import Environment
from understudy.schemas import Hyperparameters, LoraSpec, TaskSpec

__all__ = ["TrainEvent", "TrainResult", "TrainSpec"]


class TrainSpec(BaseModel):
    """One arm of a job: a recipe with a seed. Or a teacher: recipe `finetune` on rows that nobody annotated.

    `train` are Parquet shards of annotated examples, or of plain ones where `annotated` is false; `validation` is a
    Parquet file of plain examples. `artifacts` is the root of the store in which `model` may be an id or an alias.
    After `max_seconds` a training ends at the step that it has reached, which is at least the first. `stop_after` ends
    it at that step, as the time had ended another.
    `max_train_rows` keeps the rows with the smallest content hashes: the same ones in every arm and for every seed.
    `unlabelled` are shards of annotated rows whose output is the teacher's own answer. Every arm is given them, so that
    all take the same number of steps; recipes with `teacher_labels` train on those whose answer has `min_probability`.
    """

    model_config = ConfigDict(frozen=True)

    model: str = Field(min_length=1)
    task: TaskSpec
    train: tuple[Path, ...] = Field(min_length=1)
    annotated: bool
    unlabelled: tuple[Path, ...] = ()
    min_probability: float = Field(default=0.5, ge=0, le=1)
    validation: Path
    recipe: str = "finetune"
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    hyperparameters: Hyperparameters = Hyperparameters()
    rationale_weight: float = Field(default=1.0, gt=0, le=100)
    top_k: int = Field(default=5, ge=1, le=100)
    max_train_rows: int | None = Field(default=None, ge=2)
    max_seconds: float | None = Field(default=None, gt=0)
    stop_after: int | None = Field(default=None, ge=1)
    lora: LoraSpec | None = None
    artifacts: str | None = None


class TrainEvent(BaseModel):
    """Progress: `loss` is the mean training loss since the last event that had one."""

    model_config = ConfigDict(frozen=True)

    step: int
    total_steps: int
    loss: float | None = None
    validation_accuracy: float | None = None


class TrainResult(BaseModel):
    """What a finished training says of itself; `result.json` beside the model, written last.

    `seconds` counts every run of a training that was resumed. `without_words` and `without_distribution` count the
    rows whose annotation lacks what the recipe reads: they train the label alone. `truncated` counts the rows of which
    the student's window cut a part off. `planned_steps` are more than `steps` where the time was up; `tokens` are those
    that all steps read, padding left out. `teacher_labelled` counts the rows that the teacher labelled and the recipe
    trained on, `unsure` those that it left out because the teacher was, `too_long` those whose answer did not fit the
    student's window. `trained_parameters` are fewer than `parameters` where only a part of the model is trained.
    `start` is the fingerprint of the untrained model, for a name on the hub may come to mean another one; `environment`
    is where it was trained.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model: Path
    validation_accuracy: float
    validation_loss: float
    validation_rows: int
    best_step: int
    steps: int
    batch_size: int
    learning_rate: float
    seconds: float
    parameters: int
    device: str
    instances: int
    without_words: int = 0
    without_distribution: int = 0
    truncated: int = 0
    planned_steps: int = 0
    tokens: int = 0
    teacher_labelled: int = 0
    unsure: int = 0
    too_long: int = 0
    trained_parameters: int | None = None
    start: str | None = None
    environment: Environment | None = None
