"""Records -> the objects that go over the wire: OpenAI's, with our own fields beside theirs. Pure.

The installed `openai` package is the last word on its part; a test has its client parse every one of these.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from services.orchestrator.dry import Checked, ModelTokens
from services.orchestrator.estimate import estimated
from services.orchestrator.jobs import ENDED, Arm, Estimate, Item, Job, JobError, Phase, Rows, SetAside
from services.orchestrator.phases.train import Trained
from services.orchestrator.pipeline import STAGES
from services.orchestrator.store import FileRow, StoredEvent
from services.orchestrator.tally import Tally
from understudy.artifacts import Artifact
from understudy.evaluation.spec import Searched
from understudy.schemas import DistillationSpec, Hyperparameters, Progress, RejectedRow, SupervisedSpec, TaskSpec

__all__ = [
    "CheckpointObject",
    "Deleted",
    "DryRunObject",
    "EventObject",
    "FileObject",
    "IdPage",
    "JobObject",
    "ModelObject",
    "Page",
    "checkpoint_object",
    "dry_run_object",
    "event_object",
    "file_object",
    "job_object",
    "model_object",
]

OWNER = "understudy"
T = TypeVar("T")


class _Object(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Page(_Object, Generic[T]):
    """A list. `after` the last one's id comes the next page, while `has_more`."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = False


class IdPage(Page[T]):
    """A list that also names its first and last object, where OpenAI's does."""

    first_id: str | None = None
    last_id: str | None = None

    @classmethod
    def of(cls, data: list[T], has_more: bool) -> Self:
        ids = [one.id for one in data]  # type: ignore[attr-defined]
        return cls(data=data, has_more=has_more, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None)


class Deleted(_Object):
    id: str
    object: Literal["file", "model"]
    deleted: Literal[True] = True


class FileObject(_Object):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class PhaseProgress(Progress):
    """A phase's bar. `total` is 0 until the phase knows how much there is to do."""

    state: Literal["pending", "running", "done", "paused", "failed", "cancelled"]


class RejectedRows(_Object):
    """The rows that were set aside, the first of them listed; all are at `.../rejected_rows`."""

    count: int
    data: tuple[RejectedRow, ...]


class MethodObject(_Object):
    type: Literal["distillation", "supervised"]
    distillation: DistillationSpec | None = None
    supervised: SupervisedSpec | None = None


class Spent(_Object):
    """What the job has cost so far, beside its estimate: seconds of workers by phase, over what they have finished."""

    seconds_by_phase: Mapping[str, float]
    seconds: float
    teacher_tokens: int


class DryRunObject(_Object):
    """What submitting the same body would lead to; no job was made."""

    object: Literal["fine_tuning.job.dry_run"] = "fine_tuning.job.dry_run"
    model: str
    training_file: str
    validation_file: str | None
    method: MethodObject
    hyperparameters: Hyperparameters
    seed: int
    task: TaskSpec
    rows: Rows
    rejected_rows: RejectedRows
    architecture: str
    arms: tuple[Arm, ...]
    searches: bool
    student: ModelTokens
    teacher: ModelTokens | None
    estimate: Estimate


class JobObject(_Object):
    """OpenAI's job, and from `phase` on what is ours."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    status: str
    model: str
    fine_tuned_model: str | None
    organization_id: str = OWNER
    training_file: str
    validation_file: str | None
    result_files: tuple[str, ...]
    hyperparameters: Hyperparameters
    method: MethodObject
    seed: int
    trained_tokens: int | None = None
    estimated_finish: int | None = None
    integrations: tuple[()] = ()
    error: JobError | None
    suffix: str | None
    metadata: Mapping[str, str] | None
    phase: str
    progress: Progress
    phases: tuple[PhaseProgress, ...]
    arms: tuple[Arm, ...]
    searched: tuple[Searched, ...]
    sizes: tuple[int, ...]
    rows: Rows | None
    rejected_rows: RejectedRows | None
    set_aside: tuple[SetAside, ...]
    alias: str
    dataset: str | None
    teacher: str | None
    stood_for: Annotated[
        Mapping[str, str], Field(description="The artifact that each alias among the job's models named when it began")
    ]
    report: str | None
    estimate: Estimate | None
    spent: Spent


class EventObject(_Object):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: Mapping[str, Any] | None


class CheckpointMetrics(_Object):
    step: float
    full_valid_loss: float
    full_valid_mean_token_accuracy: float


class CheckpointObject(_Object):
    """A trained arm. Any of them can be loaded by its artifact id, not only the one that was published."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: CheckpointMetrics
    arm: Arm
    seed: int
    size: int | None = None


class ModelObject(_Object):
    """A published model by its artifact id, or by an alias; `artifact` is what either stands for now."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = OWNER
    artifact: str
    meta: Annotated[Mapping[str, Any], Field(description="what its job said of it: job_id, recipe, seed")]


def file_object(file: FileRow) -> FileObject:
    return FileObject(
        id=file.id, bytes=file.bytes, created_at=file.created_at, filename=file.filename, purpose=file.purpose
    )


def job_object(job: Job, tallies: Mapping[Phase, Tally], now: float | None = None) -> JobObject:
    moment = now or time.time()
    phases = [_phase(job, phase, tallies.get(phase), moment) for phase in job.phases]
    progress = _current(job, phases)
    facts = job.facts
    rejected = RejectedRows(count=facts.rows.rejected, data=facts.rejected_rows) if facts.rows else None
    return JobObject(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.finished_at,
        status=job.status,
        model=job.model,
        fine_tuned_model=job.fine_tuned_model,
        training_file=job.training_file,
        validation_file=job.validation_file,
        result_files=job.result_files,
        hyperparameters=job.hyperparameters,
        method=_method(job),
        seed=job.seed,
        error=job.error,
        suffix=job.suffix,
        metadata=job.metadata,
        phase=job.phase,
        progress=progress,
        phases=tuple(phases),
        arms=facts.arms,
        searched=facts.searched,
        sizes=job.sizes if facts.rows else job.spec.sizes,
        rows=facts.rows,
        rejected_rows=rejected,
        set_aside=facts.set_aside,
        alias=job.alias,
        dataset=facts.dataset,
        teacher=facts.teacher,
        stood_for=facts.stood_for,
        report=facts.report,
        trained_tokens=facts.trained_tokens if job.status in ENDED else None,
        estimate=facts.estimate,
        spent=_spent(job, tallies),
        estimated_finish=estimated(job, progress.eta_seconds, moment),
    )


def dry_run_object(job: Job, found: Checked) -> DryRunObject:
    return DryRunObject(
        model=job.model,
        training_file=job.training_file,
        validation_file=job.validation_file,
        method=_method(job),
        hyperparameters=job.hyperparameters,
        seed=job.seed,
        task=found.task,
        rows=found.rows,
        rejected_rows=RejectedRows(count=found.rows.rejected, data=found.rejected),
        architecture=found.architecture,
        arms=found.arms,
        searches=found.searches,
        student=found.student,
        teacher=found.teacher,
        estimate=found.estimate,
    )


def event_object(stored: StoredEvent) -> EventObject:
    event = stored.event
    return EventObject(
        id=stored.id,
        created_at=stored.created_at,
        level=event.level,
        message=event.message,
        type=event.type,
        data=event.data,
    )


def checkpoint_object(item: Item) -> CheckpointObject:
    """A finished item of the phase `train`."""
    trained = Trained.model_validate(item.result)
    return CheckpointObject(
        id=item.id.replace("item-", "ftckpt_"),
        created_at=int(item.finished_at or 0),
        fine_tuned_model_checkpoint=trained.artifact,
        fine_tuning_job_id=item.job_id,
        step_number=trained.result.best_step,
        metrics=CheckpointMetrics(
            step=trained.result.best_step,
            full_valid_loss=trained.result.validation_loss,
            full_valid_mean_token_accuracy=trained.result.validation_accuracy,
        ),
        arm=trained.arm,
        seed=trained.seed,
        size=trained.size,
    )


def model_object(name: str, artifact: Artifact) -> ModelObject:
    return ModelObject(id=name, created=artifact.created_at, artifact=artifact.id, meta=artifact.meta)


def _method(job: Job) -> MethodObject:
    return MethodObject.model_validate({"type": job.method, job.method: job.spec})


def _spent(job: Job, tallies: Mapping[Phase, Tally]) -> Spent:
    seconds = {phase: round(tally.seconds, 1) for phase, tally in tallies.items()}
    total = round(sum(tally.seconds for tally in tallies.values()), 1)
    return Spent(seconds_by_phase=seconds, seconds=total, teacher_tokens=job.facts.teacher_tokens)


def _phase(job: Job, phase: Phase, tally: Tally | None, now: float) -> PhaseProgress:
    state = _state(job, phase, tally)
    completed, total = (tally.completed, tally.expected) if tally else (0, 0)
    share = 1.0 if state == "done" else min(1.0, completed / total) if total else 0.0
    elapsed = max(0.0, now - job.phase_started_at - (job.paused_seconds - job.paused_before_phase))
    return PhaseProgress(
        phase=phase,
        state=state,
        completed=completed,
        total=total,
        unit=STAGES[phase].unit,
        percent=round(100 * share, 1),
        eta_seconds=round(elapsed * (1 - share) / share, 1) if state == "running" and share else None,
    )


def _state(job: Job, phase: Phase, tally: Tally | None) -> Any:
    if phase != job.phase:
        return "done" if tally else "pending"  # a phase behind the current one has items, one before it has none
    return job.status if job.status in ENDED or job.status == "paused" else "running"


def _current(job: Job, phases: Sequence[PhaseProgress]) -> Progress:
    for phase in phases:
        if phase.phase == job.phase:
            return Progress.model_validate(phase.model_dump())
    return Progress(phase=job.phase, completed=len(phases), total=len(phases), unit="phases", percent=100.0)
