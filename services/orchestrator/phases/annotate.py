"""Annotate: the teacher marks the words of each training example that decided its answer, a shard of rows at a time.

Rows without an output come after the training rows, in shards of their own: of those its own answer is explained, and
becomes their output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from services.orchestrator.budget import annotation_is_over, sentence
from services.orchestrator.context import Context, Grip
from services.orchestrator.jobs import Arm, Item, Job, JobError, NewItem, SetAside
from services.orchestrator.phases.validate import MIN_ROWS
from services.orchestrator.rationales import keys_of
from understudy.capacity import shard_size
from understudy.data.parquet import (
    AnnotatedExample,
    read_some_examples,
    read_some_inputs,
    write_annotated,
)
from understudy.errors import BudgetExhausted, Conflict, InternalError
from understudy.schemas import (
    Attribution,
    AttributionExample,
    AttributionRequest,
    Example,
    ModelInfo,
    PredictionInput,
)
from understudy.training.recipes import parse_recipe

__all__ = [
    "Annotated",
    "absorb",
    "annotated",
    "attribution_request",
    "explained",
    "one_teacher",
    "plan",
    "run",
    "set_aside",
]


LEAST_ROWS = MIN_ROWS["train"]

Rows = Sequence[Example | PredictionInput]
"""Of the training split, or without an output; never of both."""


class Annotated(BaseModel):
    """A shard, with fewer rows than it was to have where the budget was spent; without any there is none.

    `rows` were explained. `unlabelled` ones are not in the shard where the teacher said nothing to them (`empty`), or
    its answer broke off (`unfinished`).
    """

    model_config = ConfigDict(frozen=True)

    shard: str | None
    rows: int
    fingerprint: str | None
    tokens: int = 0
    unlabelled: bool = False
    empty: int = 0
    unfinished: int = 0


def plan(job: Job, least: int) -> list[NewItem]:
    """One item a shard of the rows that the students will learn from, those without an output at last.

    A shard has `least` rows, and more where the job has very many.
    """
    size = shard_size(job.train_rows + job.unlabelled_rows, least)
    return [
        NewItem(payload={"start": start, "stop": stop, "unlabelled": unlabelled}, total=stop - start)
        for unlabelled, count in ((False, job.train_rows), (True, job.unlabelled_rows))
        for start, stop in ((start, min(start + size, count)) for start in range(0, count, size))
    ]


def run(context: Context, job: Job, item: Item, grip: Grip) -> Annotated:
    assert job.facts.teacher is not None
    unlabelled = bool(item.payload.get("unlabelled"))
    examples = _asked(context, job, item)
    teacher = context.teachers.model(job.facts.teacher, grip.check)
    request = _request(job, examples)
    keys = keys_of(request, teacher)
    known = context.rationales.find(keys, request.examples)
    said: list[Attribution] = []
    size = context.settings.teacher_max_examples
    counted = job.spec.budget is not None and job.spec.budget.teacher_tokens is not None
    spent, tokens = job.facts.teacher_tokens, 0
    for start in range(0, len(examples), size):
        if annotation_is_over(job, context.clock(), spent):
            break
        part = request.model_copy(update={"examples": request.examples[start : start + size]})
        results, read = _completed(context, part, known[start : start + size], teacher, grip)
        said += results
        tokens += read
        spent = context.flow.spend(job.id, read) if counted and read else spent
        grip.progress(len(said))
    explained = zip(keys, examples, said, strict=False)
    whole = [(key, row, one) for key, row, one in explained if isinstance(row, Example) or _says(one)]
    unfinished = sum(one.unfinished for one in said) if unlabelled else 0
    return Annotated(
        shard=_publish(context, item, whole) if whole else None,
        rows=len(said),
        fingerprint=teacher.fingerprint if said else None,
        tokens=tokens,
        unlabelled=unlabelled,
        empty=len(said) - len(whole) - unfinished,
        unfinished=unfinished,
    )


def _publish(
    context: Context, item: Item, explained: Sequence[tuple[str, Example | PredictionInput, Attribution]]
) -> str:
    """The shard of what was explained, each row under its key."""
    folder = context.scratch(item)
    rows = [AnnotatedExample(example=_answered(row, said), attribution=said) for _, row, said in explained]
    write_annotated(folder / "shard.parquet", rows)
    meta = {"job_id": item.job_id, "index": item.index, "rows": len(rows)}
    shard = context.artifacts.publish("shard", folder, meta).id
    context.rationales.keep([key for key, *_ in explained], shard)
    return shard


def _says(said: Attribution) -> bool:
    """Whether the teacher has an answer; one that writes may write nothing, or more than it may.

    Who learned from an answer that broke off would learn to end there.
    """
    return bool(said.prediction and said.prediction.strip()) and not said.unfinished


def _answered(row: Example | PredictionInput, said: Attribution) -> Example:
    """The row with the teacher's answer where it has none of its own."""
    if isinstance(row, Example):
        return row
    return Example(id=str(row.id), input=row.input, output=str(said.prediction), choices=row.choices)


def explained(
    context: Context, job: Job, teacher: ModelInfo, examples: Rows, grip: Grip
) -> tuple[list[Attribution], int]:
    """What the teacher says of each example, and the tokens that it had to read for that: it is asked what is new.

    Raises Conflict when the teacher that answers is not the one that `teacher` describes.
    """
    request = _request(job, examples)
    known = context.rationales.find(keys_of(request, teacher), request.examples)
    return _completed(context, request, known, teacher, grip)


def _completed(
    context: Context, request: AttributionRequest, known: Sequence[Attribution | None], teacher: ModelInfo, grip: Grip
) -> tuple[list[Attribution], int]:
    """What is `known` of the request's examples, and the teacher's answers to the others; the tokens of these."""
    missing = tuple(example for example, one in zip(request.examples, known, strict=True) if one is None)
    if not missing:
        return [one for one in known if one is not None], 0
    answers = context.teachers.attribute(request.model_copy(update={"examples": missing}), grip.check)
    one_teacher([teacher.fingerprint, *(answer.fingerprint for answer in answers)])
    fresh = [result for answer in answers for result in answer.results]
    rest = iter(fresh)
    return [next(rest) if one is None else one for one in known], sum(result.tokens for result in fresh)


def _request(job: Job, examples: Rows) -> AttributionRequest:
    return attribution_request(job, job.teacher, examples)


def annotated(results: Sequence[Mapping[str, Any]]) -> list[Annotated]:
    """The answers that there are: a shard that was set aside has none."""
    return [Annotated.model_validate(result) for result in results if not result.get("set_aside")]


def absorb(job: Job, results: Sequence[Annotated]) -> Job:
    """Keep what there is. Raises BudgetExhausted where that is too little to train on."""
    given_up, also = (_rows_lost(job, unlabelled=unlabelled) for unlabelled in (False, True))
    rows, asked = sum(result.rows for result in results if not result.unlabelled), job.train_rows - given_up
    more, wanted = sum(result.rows for result in results if result.unlabelled), job.unlabelled_rows - also
    unfinished = sum(result.unfinished for result in results)
    labelled = more - sum(result.empty for result in results) - unfinished
    if rows < LEAST_ROWS and given_up:
        raise InternalError(
            f"{given_up} of {job.train_rows} rows were set aside, and training needs at least {LEAST_ROWS} others"
        )
    if rows < min(asked, LEAST_ROWS):
        raise BudgetExhausted(
            f"{sentence(job)} is spent after {rows} of {asked} rows, and training needs at least {LEAST_ROWS}: raise "
            "it, or give fewer rows",
            param=job.field("budget"),
        )
    cuts = [_said_of_lost(job, given_up + also)] if job.facts.set_aside else []
    if rows < asked or more < wanted:
        cuts.append(_cut(job, rows, asked, more, wanted))
    if lost := [size for size in job.spec.sizes if rows <= size < asked]:
        cuts.append(f"The learning curve lacks {', '.join(map(str, sorted(lost)))} rows: {rows:,} were explained.")
    if unfinished:
        cuts.append(
            f"{unfinished:,} of {more:,} rows without an output have no label: the teacher's answer was longer than it "
            "writes, and broke off."
        )
    if wanted and not labelled:
        cuts.append("No row without an output has a label: recipes that learn from the teacher's labels are left out.")
    return job.with_facts(
        fingerprint=one_teacher(result.fingerprint for result in results),
        annotated=rows,
        unlabelled_annotated=labelled,
        arms=job.facts.arms if labelled or not wanted else _without_labels(job.facts.arms),
        teacher_tokens=max(job.facts.teacher_tokens, sum(result.tokens for result in results)),
        cuts=tuple(cuts),
    )


def set_aside(context: Context, job: Job) -> tuple[SetAside, ...]:
    """The shards that were given up, with the ids of their rows."""
    items = [item for item in context.flow.items(job.id, "annotate") if (item.result or {}).get("set_aside")]
    return tuple(
        SetAside(
            index=item.index,
            unlabelled=bool(item.payload.get("unlabelled")),
            rows=tuple(str(row.id) for row in _asked(context, job, item)),
            error=item.error or JobError(code="unknown", message="nothing is known of the cause"),
        )
        for item in items
    )


def _asked(context: Context, job: Job, item: Item) -> Rows:
    """The rows of one shard, and of a large data set little more than these."""
    assert job.facts.dataset is not None
    folder, start, stop = context.artifacts.folder(job.facts.dataset), item.payload["start"], item.payload["stop"]
    if item.payload.get("unlabelled"):
        return read_some_inputs(folder / "unlabelled.parquet", start, stop)
    return read_some_examples(folder / "train.parquet", start, stop)


def _rows_lost(job: Job, *, unlabelled: bool) -> int:
    return sum(len(one.rows) for one in job.facts.set_aside if one.unlabelled == unlabelled)


def _said_of_lost(job: Job, rows: int) -> str:
    shards = len(job.facts.set_aside)
    causes = ", ".join(sorted({one.error.code for one in job.facts.set_aside}))
    every = job.train_rows + job.unlabelled_rows
    return f"{rows:,} of {every:,} rows were set aside ({shards} shards, {causes}): nobody could explain them."


def _cut(job: Job, rows: int, asked: int, more: int, wanted: int) -> str:
    also = f" and {more:,} of {wanted:,} rows without an output" if more < wanted else ""
    return (
        f"The teacher explained {rows:,} of {asked:,} training rows{also} when its part of {sentence(job)} was spent."
    )


def _without_labels(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """The arms that can be trained where the teacher has labelled nothing."""
    return tuple(arm for arm in arms if not parse_recipe(arm.name).reads("labels"))


def attribution_request(job: Job, teacher: str, examples: Rows) -> AttributionRequest:
    """What the teacher is asked of rows; of those without an output, why it answers as it does."""
    task, asked = job.facts.task, job.distillation.attribution
    assert task is not None
    answered = all(isinstance(row, Example) for row in examples)
    questions = [
        AttributionExample(id=row.id, input=row.input, output=getattr(row, "output", None), choices=row.choices)
        for row in examples
    ]
    changed: dict[str, Any] = {} if answered else {"target": "predicted"}
    if not _by_token(job):
        changed["token_probabilities"] = 0
    return AttributionRequest(
        model=teacher,
        examples=tuple(questions),
        labels=task.labels or None,
        template=task.template,
        **asked.model_dump() | changed,
    )


def _by_token(job: Job) -> bool:
    """Whether a recipe learns from the teacher's probabilities of the tokens of open answers."""
    assert job.facts.task is not None
    taught = any(parse_recipe(arm.name).reads("distribution") for arm in job.facts.arms)
    return taught and job.facts.task.kind == "generation"


def one_teacher(fingerprints: Iterable[str | None]) -> str:
    """The teacher behind all annotations and answers; they are worth nothing when it changed on the way."""
    found = {one for one in fingerprints if one is not None}
    if len(found) != 1:
        raise Conflict(
            f"the teacher's model changed during the job (fingerprints {', '.join(sorted(found))}): name an artifact "
            "id or an alias, which stand for one model all the while, and start again",
            param="method.distillation.teacher.model",
        )
    return found.pop()
