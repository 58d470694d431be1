"""Preflight: before any cost, is the teacher there, does it know its model, and do its first answers make sense?"""

from __future__ import annotations

import time
from collections import Counter

from pydantic import BaseModel, ConfigDict

from services.orchestrator.context import Context, Grip
from services.orchestrator.jobs import Event, Item, Job
from services.orchestrator.phases.annotate import explained
from services.orchestrator.phases.fields import told_as
from understudy.data.parquet import read_some_examples
from understudy.errors import ModelError
from understudy.schemas import Attribution, Example, ModelInfo
from understudy.training.answers import is_right

__all__ = ["Checked", "absorb", "run"]

SMOKE_ROWS = 16
_FIELDS = {
    "model": "method.distillation.teacher.model",
    "method": "method.distillation.attribution.method",
    "target": "method.distillation.attribution.target",
    "settings": "method.distillation.attribution.settings",
    "template": "method.distillation.template",
}


class Checked(BaseModel):
    """`teacher` is None where it is fine-tuned first: there is no model to try yet."""

    model_config = ConfigDict(frozen=True)

    teacher: str | None


def run(context: Context, job: Job, _: Item, grip: Grip) -> Checked:
    if not context.teachers.ready(grip.check):
        patience = f"{context.teachers.patience:.0f} s"
        grip.event(Event(level="warn", message=f"The teacher is not ready: waiting for it, at most {patience}"))
        context.teachers.wait_ready(grip.check)
    if job.distillation.teacher.finetune:
        return Checked(teacher=None)
    with told_as(_FIELDS, default=_FIELDS["model"]):  # the rows are sound: what it says of them is about the teacher
        teacher = context.teachers.model(job.teacher, grip.check)
        _smoke(context, job, teacher, grip)
    return Checked(teacher=job.teacher)


def absorb(job: Job, result: Checked) -> Job:
    return job.with_facts(teacher=result.teacher)


def _smoke(context: Context, job: Job, teacher: ModelInfo, grip: Grip) -> None:
    """Explain a few examples: a teacher that says one thing to all of them has nothing to teach."""
    assert job.facts.dataset is not None
    rows = context.artifacts.folder(job.facts.dataset) / "train.parquet"
    examples = read_some_examples(rows, 0, min(SMOKE_ROWS, job.train_rows))
    started = time.monotonic()
    results, read = explained(context, job, teacher, examples, grip)
    seconds = time.monotonic() - started if read else None
    said = Counter(result.prediction for result in results)
    expected = Counter(example.output for example in examples)
    assert job.facts.task is not None
    if job.facts.task.kind != "generation" and len(said) == 1 and len(expected) > 1:
        raise ModelError(
            f"the teacher answers '{results[0].prediction}' to each of the first {len(examples)} training examples, "
            f"whose outputs are {len(expected)} different ones: fine-tune it first (finetune: true), or name another",
            param="model",
        )
    grip.event(_finding(job, examples, results, seconds))


def _finding(job: Job, examples: list[Example], results: list[Attribution], seconds: float | None) -> Event:
    task = job.facts.task
    assert task is not None
    right = sum(
        is_right(task, result.prediction or "", row.output) for result, row in zip(results, examples, strict=True)
    )
    message = f"The teacher is right on {right} of the first {len(examples)} training examples"
    data: dict[str, float] = {"right": right, "examples": len(examples)}
    if seconds is None:
        return Event(message=f"{message}, which it has explained before", data=data)
    rows = job.train_rows + job.unlabelled_rows
    estimate = seconds / len(examples) * rows
    return Event(
        message=f"{message}; explaining all {rows} takes about {estimate:.0f} s for one worker",
        data=data | {"estimated_seconds": round(estimate, 1)},
    )
