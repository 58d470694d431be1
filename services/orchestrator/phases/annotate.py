"""Annotate: the teacher marks the words of each training example that decided its answer, a shard of rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from services.orchestrator.budget import annotation_is_over, sentence
from services.orchestrator.context import Context, Grip
from services.orchestrator.jobs import Item, Job, NewItem
from services.orchestrator.phases.validate import MIN_ROWS
from services.orchestrator.rationales import keys_of
from understudy.data.parquet import AnnotatedExample, read_examples, write_annotated
from understudy.errors import BudgetExhausted, Conflict
from understudy.schemas import Attribution, AttributionExample, AttributionRequest, Example, ModelInfo

__all__ = ["Annotated", "absorb", "attribution_request", "explained", "plan", "run", "training_rows"]


LEAST_ROWS = MIN_ROWS["train"]


class Annotated(BaseModel):
    """A shard, with fewer rows than it was to have where the budget was spent; without any there is none."""

    model_config = ConfigDict(frozen=True)

    shard: str | None
    rows: int
    fingerprint: str | None
    tokens: int = 0


def plan(job: Job, shard_size: int) -> list[NewItem]:
    """One item a shard of the rows that the students will learn from."""
    shards = [(start, min(start + shard_size, job.train_rows)) for start in range(0, job.train_rows, shard_size)]
    return [NewItem(payload={"start": start, "stop": stop}, total=stop - start) for start, stop in shards]


def run(context: Context, job: Job, item: Item, grip: Grip) -> Annotated:
    assert job.facts.teacher is not None
    examples = training_rows(context, job)[item.payload["start"] : item.payload["stop"]]
    teacher = context.teachers.model(job.facts.teacher, grip.check)
    rows: list[AnnotatedExample] = []
    size = context.settings.teacher_max_examples
    counted = job.spec.budget is not None and job.spec.budget.teacher_tokens is not None
    spent, tokens = job.facts.teacher_tokens, 0
    for start in range(0, len(examples), size):
        if annotation_is_over(job, context.clock(), spent):
            break
        part = examples[start : start + size]
        results, read = explained(context, job, teacher, part, grip)
        rows += [AnnotatedExample(example=e, attribution=a) for e, a in zip(part, results, strict=True)]
        tokens += read
        spent = context.flow.spend(job.id, read) if counted and read else spent
        grip.progress(len(rows))
    if not rows:
        return Annotated(shard=None, rows=0, fingerprint=None)
    folder = context.scratch(item)
    write_annotated(folder / "shard.parquet", rows)
    meta = {"job_id": job.id, "index": item.index, "rows": len(rows)}
    shard = context.artifacts.publish("shard", folder, meta).id
    context.rationales.keep(_keys(job, teacher, examples[: len(rows)]), shard)
    return Annotated(shard=shard, rows=len(rows), fingerprint=teacher.fingerprint, tokens=tokens)


def explained(
    context: Context, job: Job, teacher: ModelInfo, examples: Sequence[Example], grip: Grip
) -> tuple[list[Attribution], int]:
    """What the teacher says of each example, and the tokens that it had to read for that: it is asked what is new.

    Raises Conflict when the teacher that answers is not the one that `teacher` describes.
    """
    found = context.rationales.find(_keys(job, teacher, examples), examples)
    missing = [example for example, known in zip(examples, found, strict=True) if known is None]
    if not missing:
        return [known for known in found if known is not None], 0
    answers = context.teachers.attribute(_request(job, missing), grip.check)
    _one({teacher.fingerprint, *(answer.fingerprint for answer in answers)})
    fresh = [result for answer in answers for result in answer.results]
    rest = iter(fresh)
    return [next(rest) if known is None else known for known in found], sum(result.tokens for result in fresh)


def _keys(job: Job, teacher: ModelInfo, examples: Sequence[Example]) -> list[str]:
    return keys_of(_request(job, examples), teacher)


def _request(job: Job, examples: Sequence[Example]) -> AttributionRequest:
    return attribution_request(job, job.facts.teacher or job.distillation.teacher.model, examples)


def absorb(job: Job, results: Sequence[Annotated]) -> Job:
    """Keep what there is. Raises BudgetExhausted where that is too little to train on."""
    rows, asked = sum(result.rows for result in results), job.train_rows
    if rows < min(asked, LEAST_ROWS):
        raise BudgetExhausted(
            f"{sentence(job)} is spent after {rows} of {asked} rows, and training needs at least {LEAST_ROWS}: raise "
            "it, or give fewer rows",
            param=job.field("budget"),
        )
    cut = f"The teacher explained {rows:,} of {asked:,} training rows when its part of {{}} was spent."
    return job.with_facts(
        fingerprint=_one({result.fingerprint for result in results if result.fingerprint is not None}),
        annotated=rows,
        teacher_tokens=max(job.facts.teacher_tokens, sum(result.tokens for result in results)),
        cuts=(cut.format(sentence(job)),) if rows < asked else (),
    )


def attribution_request(job: Job, teacher: str, examples: Sequence[Example]) -> AttributionRequest:
    task, asked = job.facts.task, job.distillation.attribution
    assert task is not None
    return AttributionRequest(
        model=teacher,
        examples=tuple(
            AttributionExample(id=row.id, input=row.input, output=row.output, choices=row.choices) for row in examples
        ),
        labels=task.labels or None,
        template=task.template,
        **asked.model_dump(),
    )


def training_rows(context: Context, job: Job) -> list[Example]:
    """The rows that the students learn from. A copy is kept, because each shard of the job asks again."""
    assert job.facts.dataset is not None
    return _read(context.artifacts.folder(job.facts.dataset) / "train.parquet")[: job.train_rows]


@lru_cache(maxsize=2)
def _read(path: Path) -> list[Example]:
    return read_examples(path)


def _one(fingerprints: set[str]) -> str:
    """The teacher behind all annotations; they are worth nothing when it changed on the way."""
    if len(fingerprints) != 1:
        raise Conflict(
            f"the teacher's model changed while it explained (fingerprints {', '.join(sorted(fingerprints))}): "
            "name an artifact id, which never changes, and start again",
            param="method.distillation.teacher.model",
        )
    return fingerprints.pop()
