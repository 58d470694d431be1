"""Evaluate: the teacher's and every arm's answers on the test split, which nothing else sees, become the report."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from services.orchestrator import stages
from services.orchestrator.child import run_child
from services.orchestrator.context import Context, Grip
from services.orchestrator.jobs import Event, Item, Job
from services.orchestrator.phases.annotate import one_teacher
from services.orchestrator.phases.faithfulness import measured
from services.orchestrator.phases.manifest import manifest
from services.orchestrator.phases.train import Trained, shards
from services.orchestrator.rationales import key_of
from understudy.data.parquet import read_examples
from understudy.evaluation.report import Report
from understudy.evaluation.spec import ArmResult, EvaluateSpec, RowCounts, TeacherFacts
from understudy.schemas import Example, ModelInfo, PredictionInput, PredictionRequest

__all__ = ["Evaluated", "absorb", "run", "trained_arms"]

LATENCY_REQUESTS = 20


class Evaluated(BaseModel):
    model_config = ConfigDict(frozen=True)

    report: str


def run(context: Context, job: Job, item: Item, grip: Grip) -> Evaluated:
    assert job.facts.dataset is not None
    assert job.facts.task is not None
    assert job.facts.rows is not None
    test = context.artifacts.folder(job.facts.dataset) / "test.parquet"
    out = context.settings.work / item.id
    out.mkdir(parents=True, exist_ok=True)
    trained = trained_arms(context, job)
    spec = EvaluateSpec(
        job_id=job.id,
        task=job.facts.task,
        test=test,
        validation=test.with_name("validation.parquet"),
        train=() if job.distils else (context.artifacts.folder(job.facts.dataset) / "train.parquet",),
        annotated=shards(context, job),
        arms=tuple(_arm(context, one) for one in trained),
        searched=job.facts.searched,
        rows=RowCounts(**job.facts.rows.model_dump() | {"train": job.train_rows, "unlabelled": job.unlabelled_rows}),
        notes=job.facts.cuts,
        seconds_each=job.hyperparameters.seconds,
        manifest=manifest(context, job, trained, test),
        **(_of_the_teacher(context, job, read_examples(test), context.scratch(item), grip) if job.distils else {}),
    )
    answer = run_child(
        stages.evaluate,
        spec.model_dump(mode="json"),
        out / "report",
        emit=lambda event: grip.progress(event["completed"], event["total"]),
        check=grip.check,
        threads=context.settings.threads_per_child,
        grace=context.settings.child_grace,
        lock=out / "owner.lock",
    )
    report = Report.model_validate(answer)
    for sentence in report.summary:
        grip.event(Event(message=sentence))
    return Evaluated(report=context.artifacts.publish("report", out / "report", {"job_id": job.id}).id)


def _of_the_teacher(context: Context, job: Job, test: Sequence[Example], scratch: Path, grip: Grip) -> dict[str, Any]:
    """What the report of a job with a teacher says of it: its answers, and how good its maps are."""
    assert job.facts.teacher is not None
    model = context.teachers.model(job.facts.teacher, grip.check)
    one_teacher([job.facts.fingerprint, model.fingerprint])
    asked = job.distillation.attribution
    return {
        "teacher": _teacher(context, job, model, test, scratch, grip),
        "map_faithfulness": measured(context, job, model, scratch / "faithfulness", grip),
        "cut_from_teacher": job.cut_from_teacher,
        "top_k": asked.most_words,
        "attribution_method": asked.method,
    }


def absorb(job: Job, result: Evaluated) -> Job:
    return job.with_facts(report=result.report)


def trained_arms(context: Context, job: Job) -> list[Trained]:
    return [Trained.model_validate(result) for result in context.flow.results(job.id, "train")]


def _arm(context: Context, trained: Trained) -> ArmResult:
    return ArmResult(
        recipe=trained.arm.name,
        seed=trained.seed,
        model=context.artifacts.folder(trained.artifact),
        artifact=trained.artifact,
        validation_accuracy=trained.result.validation_accuracy,
        steps=trained.result.steps,
        seconds=trained.result.seconds,
        candidate=trained.arm.candidate,
        control_of=trained.arm.control_of,
        batch_size=trained.result.batch_size,
        without_words=trained.result.without_words,
        without_distribution=trained.result.without_distribution,
        truncated=trained.result.truncated,
        size=trained.size,
        tokens=trained.result.tokens,
        teacher_labelled=trained.result.teacher_labelled,
    )


def _teacher(
    context: Context, job: Job, model: ModelInfo, test: Sequence[Example], scratch: Path, grip: Grip
) -> TeacherFacts:
    """The teacher's own answers to the test split, and how long it takes for one of them; asked once for all jobs."""
    key = key_of(_request(job, test), model)
    folder = context.rationales.folder(key)
    if folder is None:
        shard = _answers(context, job, model, test, scratch / "teacher", grip)
        context.rationales.keep([key], shard)
        folder = context.artifacts.folder(shard)
    tallies = context.tallies.of([job.id]).get(job.id, {})
    return TeacherFacts(
        model=job.distillation.teacher.model,
        finetuned=job.distillation.teacher.finetune,
        parameters=model.parameters,
        predictions=folder / "teacher.jsonl",
        latency_ms=json.loads((folder / "latency.json").read_bytes())["median_ms"],
        trained_rows=job.facts.rows.train if job.distillation.teacher.finetune and job.facts.rows else None,
        training_seconds=tallies["teacher"].seconds if "teacher" in tallies else None,
        annotation_seconds=tallies["annotate"].seconds if "annotate" in tallies else None,
        annotation_tokens=job.facts.teacher_tokens,
    )


def _answers(context: Context, job: Job, model: ModelInfo, test: Sequence[Example], folder: Path, grip: Grip) -> str:
    """Ask, and publish what was said; the artifact's id."""
    folder.mkdir(exist_ok=True)
    answers = context.teachers.predict(_request(job, test), grip.check)
    # Predictions do not say whose they are.
    one_teacher([model.fingerprint, context.teachers.model(job.teacher, grip.check).fingerprint])
    # ASCII, because some characters that JSON leaves as they are end a line for some readers.
    lines = (json.dumps(answer.model_dump(mode="json")) + "\n" for answer in answers)
    (folder / "teacher.jsonl").write_text("".join(lines), encoding="ascii")
    latency = {"median_ms": _latency_ms(context, job, test, grip)}
    (folder / "latency.json").write_text(json.dumps(latency), encoding="ascii")
    return context.artifacts.publish("shard", folder, {"job_id": job.id, "role": "test answers"}).id


def _request(job: Job, examples: Sequence[Example]) -> PredictionRequest:
    task = job.facts.task
    assert task is not None
    return PredictionRequest(
        model=job.facts.teacher,
        inputs=tuple(PredictionInput(id=row.id, input=row.input, choices=row.choices) for row in examples),
        explain=False,
        labels=task.labels or None,
        template=task.template,
    )


def _latency_ms(context: Context, job: Job, test: Sequence[Example], grip: Grip) -> float:
    """The median of single requests; the model is warm, since it has just answered the whole split."""
    times = []
    for turn in range(LATENCY_REQUESTS):
        started = time.perf_counter()
        context.teachers.predict(_request(job, [test[turn % len(test)]]), grip.check)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)
