"""Train: an arm of the job (a recipe with a seed), or the teacher on the plain rows, in a child process each."""

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

__all__ = ["Taught", "Trained", "absorb", "absorb_teacher", "plan", "run", "run_teacher", "shards"]

METRICS_SECONDS = 5.0  # between two events that only have a loss


class Trained(BaseModel):
    """One arm's model, and what the training says of itself."""

    model_config = ConfigDict(frozen=True)

    arm: Arm
    seed: int
    artifact: str
    result: TrainResult


class Taught(BaseModel):
    model_config = ConfigDict(frozen=True)

    teacher: str


def plan(job: Job) -> list[NewItem]:
    """Seed by seed, so that a whole round of arms is there before the next seed begins."""
    runs = [(arm, seed) for seed in job.spec.seeds for arm in job.facts.arms]
    bound = seconds_for_a_run(job, len(runs))
    return [NewItem(payload={"arm": arm.model_dump(), "seed": seed, "max_seconds": bound}) for arm, seed in runs]


def run(context: Context, job: Job, item: Item, grip: Grip) -> Trained:
    assert job.facts.task is not None
    arm, seed = Arm.model_validate(item.payload["arm"]), int(item.payload["seed"])
    spec = TrainSpec(
        model=job.model,
        task=job.facts.task,
        train=shards(context, job) if job.distils else (_dataset(context, job) / "train.parquet",),
        annotated=job.distils,
        validation=_dataset(context, job) / "validation.parquet",
        recipe=arm.name,
        seed=seed,
        hyperparameters=job.hyperparameters,
        max_train_rows=job.spec.max_train_rows,
        max_seconds=item.payload.get("max_seconds"),
        artifacts=context.settings.artifact_root,
        **_teaching(job),
    )
    name = f"{arm.name}, seed {seed}"
    with told_as({"recipe": "method.distillation.recipe"} if job.distils else {}):
        result = _train(context, item, grip, spec, {"arm": arm.name, "seed": seed}, name)
    meta = {"role": "arm", "job_id": job.id, "recipe": arm.name, "seed": seed}
    artifact = context.artifacts.publish("model", result.model, meta).id
    return Trained(arm=arm, seed=seed, artifact=artifact, result=result)


def absorb(job: Job, results: Sequence[Trained]) -> Job:
    """Keep what all students read together, and say where the budget ended their training."""
    cut = [one.result for one in results if one.result.steps < one.result.planned_steps]
    said = (
        f"{len(cut)} of {len(results)} trainings ended after their equal parts of {sentence(job)}, at "
        f"{min(one.steps for one in cut):,} to {max(one.steps for one in cut):,} of {cut[0].planned_steps:,} steps."
        if cut
        else None
    )
    return job.with_facts(
        trained_tokens=sum(one.result.tokens for one in results),
        cuts=(*job.facts.cuts, *filter(None, [said])),
    )


def run_teacher(context: Context, job: Job, item: Item, grip: Grip) -> Taught:
    """Fine-tune the teacher on the whole training split, as the paper does first."""
    assert job.facts.task is not None
    teacher = job.distillation.teacher
    dataset = _dataset(context, job)
    spec = TrainSpec(
        model=teacher.model,
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


def _teaching(job: Job) -> dict[str, Any]:
    """What a training takes from the teacher's part of the job."""
    if not job.distils:
        return {}
    spec = job.distillation
    return {"rationale_weight": spec.rationale_weight, "top_k": spec.attribution.most_words}


def absorb_teacher(job: Job, result: Taught) -> Job:
    return job.with_facts(teacher=result.teacher)


def shards(context: Context, job: Job) -> tuple[Path, ...]:
    """The annotated training rows, in order."""
    results = context.flow.results(job.id, "annotate")
    whole = (result["shard"] for result in results if result["shard"] is not None)
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

    def __call__(self, value: Mapping[str, Any]) -> None:
        event = TrainEvent.model_validate(value)
        self._grip.progress(event.step, event.total_steps)
        validated = event.validation_accuracy is not None
        if not validated and (event.loss is None or time.monotonic() - self._told < METRICS_SECONDS):
            return
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
