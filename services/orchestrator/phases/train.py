"""Train: an arm of the job (a recipe with a seed), or the teacher on the plain rows, in a child process each.

With `sizes` every arm is trained on so many of the rows as well: the learning curve, whose points are like any arm.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from services.orchestrator import stages
from services.orchestrator.budget import seconds_for_a_run, seconds_for_the_teacher, sentence
from services.orchestrator.child import run_child
from services.orchestrator.context import Context, Grip
from services.orchestrator.jobs import Arm, Event, Item, Job, NewItem
from services.orchestrator.phases.fields import told_as
from understudy.training.spec import TrainEvent, TrainResult, TrainSpec

__all__ = [
    "Taught",
    "Trained",
    "absorb",
    "absorb_teacher",
    "plan",
    "run",
    "run_teacher",
    "shards",
    "student_spec",
    "train_in_child",
    "unlabelled_shards",
]

METRICS_SECONDS = 5.0  # between two events that only have a loss


class Trained(BaseModel):
    """One arm's model, and what the training says of itself.

    `size` is None where it had all training rows. `out_of_time`: its part of the budget ended it before its last step.
    """

    model_config = ConfigDict(frozen=True)

    arm: Arm
    seed: int
    size: int | None = None
    artifact: str
    result: TrainResult
    out_of_time: bool = False


class Taught(BaseModel):
    model_config = ConfigDict(frozen=True)

    teacher: str


def plan(job: Job) -> list[NewItem]:
    """Seed by seed, so that a whole round of arms is there before the next seed begins; the smaller sizes at last."""
    sizes: tuple[int | None, ...] = (None, *job.sizes)
    runs = [(arm, seed, size) for size in sizes for seed in job.spec.seeds for arm in job.facts.arms]
    bound = seconds_for_a_run(job, len(runs))
    return [
        NewItem(payload={"arm": arm.model_dump(), "seed": seed, "size": size, "max_seconds": bound})
        for arm, seed, size in runs
    ]


def run(context: Context, job: Job, item: Item, grip: Grip) -> Trained:
    payload = item.payload
    arm, seed, size = Arm.model_validate(payload["arm"]), int(payload["seed"]), payload.get("size")
    bound = payload.get("max_seconds")
    spec = student_spec(context, job, arm.name, seed, size=size, max_seconds=bound)
    on = f" on {size} rows" if size else ""
    labels = {"arm": arm.name, "seed": seed} | ({"size": size} if size else {})
    result = train_in_child(context, job, item, grip, spec, labels, f"{arm.name}, seed {seed}{on}")
    meta = {"role": "arm", "job_id": job.id, "recipe": arm.name, "seed": seed} | ({"size": size} if size else {})
    artifact = context.artifacts.publish("model", result.model, meta).id
    # One that ended early for another reason had run out of patience.
    cut = result.steps < result.planned_steps and bound is not None and result.seconds >= bound
    return Trained(arm=arm, seed=seed, size=size, artifact=artifact, result=result, out_of_time=cut)


def student_spec(
    context: Context,
    job: Job,
    recipe: str,
    seed: int,
    *,
    size: int | None = None,
    max_seconds: float | None = None,
) -> TrainSpec:
    """The whole training of a student, on `size` rows where it is a point of the learning curve."""
    assert job.facts.task is not None
    return TrainSpec(
        model=job.student,
        task=job.facts.task,
        train=shards(context, job) if job.distils else (_dataset(context, job) / "train.parquet",),
        annotated=job.distils,
        validation=_dataset(context, job) / "validation.parquet",
        recipe=recipe,
        seed=seed,
        hyperparameters=job.hyperparameters,
        max_train_rows=size or job.spec.max_train_rows,
        max_seconds=max_seconds,
        lora=job.spec.lora,
        artifacts=context.settings.artifact_root,
        **_teaching(context, job),
    )


def train_in_child(
    context: Context, job: Job, item: Item, grip: Grip, spec: TrainSpec, labels: Mapping[str, Any], name: str
) -> TrainResult:
    """Train a student; what is wrong with it is told in the job's own fields."""
    with told_as({"recipe": "method.distillation.recipe"} if job.distils else {}):
        return _train(context, item, grip, spec, labels, name)


def absorb(job: Job, results: Sequence[Trained]) -> Job:
    """Keep what all students read together, and say where the budget ended their training."""
    said = _said_of_cuts(job, results)
    return job.with_facts(
        trained_tokens=sum(one.result.tokens for one in results),
        cuts=(*job.facts.cuts, *filter(None, [said])),
    )


def _said_of_cuts(job: Job, results: Sequence[Trained]) -> str | None:
    """What the budget ended early."""
    cut = [one.result for one in results if one.out_of_time]
    if not cut:
        return None
    planned = sorted({one.planned_steps for one in cut})
    whole = f"{planned[0]:,}" if len(planned) == 1 else f"{planned[0]:,} to {planned[-1]:,}"
    return (
        f"{len(cut)} of {len(results)} trainings ended after their equal parts of {sentence(job)}, at "
        f"{min(one.steps for one in cut):,} to {max(one.steps for one in cut):,} of {whole} steps."
    )


def run_teacher(context: Context, job: Job, item: Item, grip: Grip) -> Taught:
    """Fine-tune the teacher on the whole training split, as the paper does first."""
    assert job.facts.task is not None
    teacher = job.distillation.teacher
    dataset = _dataset(context, job)
    spec = TrainSpec(
        model=job.teacher,
        task=job.facts.task,
        train=(dataset / "train.parquet",),
        annotated=False,
        validation=dataset / "validation.parquet",
        recipe="finetune",
        seed=job.seed,
        hyperparameters=teacher.hyperparameters,
        max_seconds=seconds_for_the_teacher(job),
        artifacts=context.settings.artifact_root,
    )
    with told_as({}, default="method.distillation.teacher.model"):
        result = _train(context, item, grip, spec, {"arm": "teacher", "seed": job.seed}, "teacher")
    meta = {"role": "teacher", "job_id": job.id, "base_model": teacher.model}
    return Taught(teacher=context.artifacts.publish("model", result.model, meta).id)


def _teaching(context: Context, job: Job) -> dict[str, Any]:
    """What a training takes from the teacher's part of the job."""
    if not job.distils:
        return {}
    spec = job.distillation
    return {
        "rationale_weight": spec.rationale_weight,
        "top_k": spec.attribution.most_words,
        "unlabelled": unlabelled_shards(context, job),
        "min_probability": spec.min_probability,
    }


def absorb_teacher(job: Job, result: Taught) -> Job:
    return job.with_facts(teacher=result.teacher)


def shards(context: Context, job: Job) -> tuple[Path, ...]:
    """The annotated training rows, in order; not those that the teacher labelled."""
    return _shards(context, job, unlabelled=False)


def unlabelled_shards(context: Context, job: Job) -> tuple[Path, ...]:
    """The rows that the teacher labelled, in order: the output of each is its answer."""
    return _shards(context, job, unlabelled=True)


def _shards(context: Context, job: Job, *, unlabelled: bool) -> tuple[Path, ...]:
    results = context.flow.results(job.id, "annotate")
    whole = (one["shard"] for one in results if one.get("shard") and one.get("unlabelled", False) == unlabelled)
    return tuple(context.artifacts.folder(shard) / "shard.parquet" for shard in whole)


def _dataset(context: Context, job: Job) -> Path:
    assert job.facts.dataset is not None
    return context.artifacts.folder(job.facts.dataset)


def _train(
    context: Context, item: Item, grip: Grip, spec: TrainSpec, labels: Mapping[str, Any], name: str
) -> TrainResult:
    """`out` outlives an attempt, so that a training that was stopped goes on from its last checkpoint."""
    out = context.settings.work / item.id
    out.mkdir(parents=True, exist_ok=True)
    answer = run_child(
        stages.train,
        spec.model_dump(mode="json"),
        out,
        emit=_Narrator(grip, labels, name),
        check=grip.check,
        threads=context.settings.threads_per_child,
        grace=context.settings.child_grace,
        lock=out / "owner.lock",
    )
    return TrainResult.model_validate(answer)


class _Narrator:
    """Turns a training's events into progress, and some of them into lines of the job's story."""

    def __init__(self, grip: Grip, labels: Mapping[str, Any], name: str) -> None:
        self._grip = grip
        self._labels = labels
        self._name = name
        self._told = time.monotonic()
        self._loss: float | None = None  # the last one that no line has told

    def __call__(self, value: Mapping[str, Any]) -> None:
        event = TrainEvent.model_validate(value)
        self._grip.progress(event.step, event.total_steps)
        validated = event.validation_accuracy is not None
        self._loss = event.loss if event.loss is not None else self._loss
        if not validated and (event.loss is None or time.monotonic() - self._told < METRICS_SECONDS):
            return
        event, self._loss = event.model_copy(update={"loss": self._loss}), None
        self._told = time.monotonic()
        figures = [f"training loss {event.loss:.4f}"] if event.loss is not None else []
        figures += [f"validation accuracy {event.validation_accuracy:.4f}"] if validated else []
        message = f"{self._name}: step {event.step}/{event.total_steps}, {', '.join(figures)}"
        self._grip.event(Event(message=message, type="metrics", data={**self._labels, **_metrics(event)}))


def _metrics(event: TrainEvent) -> dict[str, Any]:
    """OpenAI's names of the same figures."""
    return {
        "step": event.step,
        "total_steps": event.total_steps,
        "train_loss": event.loss,
        "full_valid_mean_token_accuracy": event.validation_accuracy,
    }
