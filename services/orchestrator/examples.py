"""The annotated rows of a job, in pages: what the teacher said of each, and the published student where it was asked.

A page reads the shards that it needs and no more. The student's answers are those of the sample that the evaluation
draws; no model is asked here. Knows no route.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from services.orchestrator.context import Context
from services.orchestrator.jobs import Job
from services.orchestrator.phases.annotate import Annotated
from understudy.data.parquet import AnnotatedExample, read_annotated
from understudy.errors import ArtifactNotFound, NotFound
from understudy.evaluation.metrics import correctness
from understudy.schemas import Prediction, TaskSpec, Word

__all__ = ["AGREES", "ExampleObject", "Wanted", "find_examples"]

AGREES = 0.5
"""From this token F1 on, the student's words agree with the teacher's."""
MOST_READ = 4096
"""Rows that one page looks at; where they hold too few that fit, the page ends early and says where to go on."""
ANSWERS = "answers.jsonl"  # understudy.evaluation.run writes it, and that module imports torch


class _Object(BaseModel):
    model_config = ConfigDict(frozen=True)


class Said(_Object):
    """One side's answer. `words` are its whole map, or all that it has; `rationale` those that it names as reasons."""

    label: str
    probability: float | None
    right: bool
    words: tuple[Word, ...]
    rationale: tuple[Word, ...]


class ExampleObject(_Object):
    """A training row that the teacher explained; `index` is its place among them.

    `student` is None where the published student was not asked, which is on all rows outside a sample. `agreement` is
    the token F1 of the two sides' rationales.
    """

    object: Literal["fine_tuning.job.example"] = "fine_tuning.job.example"
    index: int
    id: str
    input: str
    expected: str
    choices: tuple[str, ...] | None
    teacher: Said
    student: Said | None
    agreement: float | None


@dataclass(frozen=True)
class Wanted:
    """Which rows: by the expected answer, by whether the student is right, by whether the two sides' words agree.

    Those of the last two are in the student's sample.
    """

    label: str | None = None
    student: Literal["right", "wrong"] | None = None
    agreement: Literal["low", "high"] | None = None

    def fits(self, one: ExampleObject) -> bool:
        if self.label is not None and one.expected != self.label:
            return False
        if self.student is not None and (one.student is None or one.student.right != (self.student == "right")):
            return False
        return self.agreement is None or (
            one.agreement is not None and (one.agreement >= AGREES) == (self.agreement == "high")
        )

    @property
    def sampled(self) -> bool:
        return self.student is not None or self.agreement is not None


def find_examples(
    context: Context, job: Job, wanted: Wanted, after: int | None, limit: int
) -> tuple[list[ExampleObject], int | None]:
    """The rows behind the place `after`, at most `limit`, and the place behind which there may be more.

    Raises NotFound where the teacher has explained nothing yet, or what it explained is gone.
    """
    shards = _shards(context, job)
    if not shards or job.facts.task is None:
        raise NotFound(f"job {job.id} has no annotated examples: it is {job.status}, in phase {job.phase}")
    answers = _answers(context, job)
    first = 0 if after is None else after + 1
    places: Sequence[int] = range(first, sum(rows for _, rows in shards))
    if wanted.sampled:
        places = sorted(place for place in answers if place >= first)
    found: list[ExampleObject] = []
    for place, row in _rows(context, job, shards, places[:MOST_READ]):
        one = _object(job.facts.task, place, row, answers.get(place))
        if not wanted.fits(one):
            continue
        if len(found) == limit:
            return found, found[-1].index
        found.append(one)
    return found, places[MOST_READ - 1] if len(places) > MOST_READ else None


def _shards(context: Context, job: Job) -> list[tuple[str, int]]:
    """The shards of training rows that are there, in order, each with its number of rows."""
    done = [item.result for item in context.flow.items(job.id, "annotate") if item.state == "done" and item.result]
    found = [Annotated.model_validate(one) for one in done if not one.get("set_aside")]
    return [(one.shard, one.rows) for one in found if one.shard and not one.unlabelled]


def _rows(
    context: Context, job: Job, shards: Sequence[tuple[str, int]], places: Sequence[int]
) -> Iterator[tuple[int, AnnotatedExample]]:
    """The rows at these places, which ascend; a shard is read when its first row is asked for."""
    numbered, first = iter(shards), 0
    shard, rows = next(numbered)
    for place in places:
        while place >= first + rows:
            first += rows
            shard, rows = next(numbered)
        yield place, _read(_path(context, job, shard))[place - first]


def _path(context: Context, job: Job, shard: str) -> Path:
    try:
        return context.artifacts.folder(shard) / "shard.parquet"
    except ArtifactNotFound as error:
        raise NotFound(
            f"the annotated examples of job {job.id} are gone: what is kept after a job's end is in the settings of "
            "garbage collection"
        ) from error


@lru_cache(maxsize=8)
def _read(path: Path) -> list[AnnotatedExample]:
    return read_annotated(path)


def _answers(context: Context, job: Job) -> Mapping[int, Prediction]:
    """The published student's answers by the places of their rows; none before the report, or in an older one."""
    if job.facts.report is None:
        return {}
    path = context.artifacts.folder(job.facts.report) / ANSWERS
    if not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    return {int(line["place"]): Prediction.model_validate(line) for line in lines}


def _object(task: TaskSpec, place: int, row: AnnotatedExample, answer: Prediction | None) -> ExampleObject:
    example, said = row.example, row.attribution
    label = said.prediction or ""
    teacher = Said(
        label=label,
        probability=said.probability,
        right=correctness(task, [label], [example])[0],
        words=said.words,
        rationale=said.rationale,
    )
    student = None
    if answer is not None:
        words = answer.words or ()
        student = Said(
            label=answer.label,
            probability=answer.probability,
            right=correctness(task, [answer.label], [example])[0],
            words=words,
            rationale=words,
        )
    return ExampleObject(
        index=place,
        id=example.id,
        input=example.input,
        expected=example.output,
        choices=example.choices,
        teacher=teacher,
        student=student,
        agreement=_f1(said.rationale, student.rationale) if student else None,
    )


def _f1(ours: Sequence[Word], theirs: Sequence[Word]) -> float:
    """Token F1, 2 |A and B| / (|A| + |B|); a word of both begins at the same character."""
    a, b = {word.start for word in ours}, {word.start for word in theirs}
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 0.0
