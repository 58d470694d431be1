"""Whether a job's student writes answers in its teacher's tokens: only then can it follow the teacher token by token.

Of open tasks alone; where there are candidate answers, both are asked about those. What a name tells is told without a
model: a part of the teacher has its tokenizer, and new models have those that the training rows give them. Of two
models that exist a child process is asked, because only their tokenizers can tell. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.orchestrator.jobs import Job
from understudy.models.names import PREFIX, is_cut, parse_cut, parse_scratch
from understudy.schemas import Example, TaskSpec

__all__ = ["ROWS", "by_name", "question"]

ROWS = 200
"""Answers that are compared; two tokenizers that agree on these are of one family."""


def by_name(job: Job, *, fewer_rows: bool) -> float | None:
    """The share of answers that both write in the same tokens, where names tell it; None where they do not.

    `fewer_rows`: some training of a student has other rows than the teacher's, and a new tokenizer comes from the rows.
    """
    teacher = job.distillation.teacher.model
    if is_cut(job.model) and parse_cut(job.model).base is None:
        return 1.0
    if job.model.startswith(PREFIX) and teacher.startswith(PREFIX) and not fewer_rows:
        return float(parse_scratch(job.model).family == parse_scratch(teacher).family)
    return 0.0 if job.model.startswith(PREFIX) or teacher.startswith(PREFIX) else None


def question(job: Job, task: TaskSpec, train: Sequence[Example]) -> dict[str, Any]:
    """What a child is asked of the two models beside their architecture (`stages.inspect`); nothing where it need not.

    Names tell the rest.
    """
    if not job.distils or task.kind != "generation" or by_name(job, fewer_rows=False) is not None:
        return {}
    rows = [row.model_dump(mode="json") for row in train[:ROWS]]
    return {"teacher": job.teacher, "rows": rows, "task": task.model_dump(mode="json")}
