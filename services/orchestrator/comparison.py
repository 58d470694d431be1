"""One text, asked of a published model and of the teacher that it came from: answers, probabilities and words.

The two are asked one after the other, each within its time; where one cannot answer, the other's answer is there with
the reason. Knows no route.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from services.orchestrator.context import Context
from services.orchestrator.jobs import Job, JobError
from services.orchestrator.phases.annotate import attribution_request
from services.orchestrator.places import Places
from services.orchestrator.settings import Settings
from understudy.client import StudentClient
from understudy.errors import Conflict, InvalidRequest, NotFound, Unavailable, UnderstudyError
from understudy.schemas import PredictionInput, PredictionRequest, Request, TaskSpec, Text, Word
from understudy.versions import Versions

__all__ = ["ComparisonObject", "ComparisonRequest", "Comparisons"]

TEACHER_SECONDS = 60.0
STUDENT_SECONDS = 60.0
AT_ONCE = 8
"""Each holds a thread for up to the seconds of both sides, and the API has 40 of them."""
WORDS = 5
"""The words of a student whose job cannot be asked how many it was to name."""


class ComparisonRequest(Request):
    model: str = Field(min_length=1, max_length=500, description="A published model's id, or an alias")
    input: Text
    choices: tuple[Text, ...] | None = Field(default=None, min_length=2, description="Of a multiple-choice task")


class Side(BaseModel):
    """What one of the two said, or `error` where it could not.

    `words` are the words of the map with their scores, `rationale` those that are named as reasons; of a student the
    two are the same. `reasons` is the attribution method, or where the student's words come from. `ms` is what the
    call took, the network counted.
    """

    model_config = ConfigDict(frozen=True)

    model: str | None
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    words: tuple[Word, ...] = ()
    rationale: tuple[Word, ...] = ()
    reasons: str | None = None
    ms: float | None = None
    error: JobError | None = None


class ComparisonObject(BaseModel):
    """`agree`: both gave the same answer; None where only one did."""

    model_config = ConfigDict(frozen=True)

    object: Literal["comparison"] = "comparison"
    model: str
    artifact: str
    input: str
    task: TaskSpec | None
    teacher: Side
    student: Side
    agree: bool | None


class Comparisons:
    """`settings` say where the student service is; the teachers are the context's."""

    def __init__(self, context: Context, settings: Settings) -> None:
        self._context = context
        self._places = Places(AT_ONCE, "comparisons")
        self._url, self._key = settings.student_url, settings.student_api_key

    def compare(self, asked: ComparisonRequest) -> ComparisonObject:
        """Ask both. Raises ModelNotFound, InvalidRequest for what no side could read, Overloaded while too many are
        asked, and where neither could answer, the student's error.
        """
        found = Versions(self._context.artifacts).show(asked.model)
        if found.task and found.task.kind == "choice" and asked.choices is None:
            raise InvalidRequest(f"'{asked.model}' answers with one of the row's choices: give them", param="choices")
        job = self._job(found.job)
        with self._places.one():
            student = _tried(found.id, lambda: self._of_student(asked, job))
            teacher = _tried(
                job.distillation.teacher.model if job and job.distils else None,
                lambda: self._of_teacher(asked, job, found.job),
            )
        sides = [side for side in (student, teacher) if isinstance(side, Side)]
        if not sides:
            assert isinstance(student, _Failed)
            raise student.error
        both = len(sides) == 2
        return ComparisonObject(
            model=asked.model,
            artifact=found.id,
            input=asked.input,
            task=found.task,
            teacher=_side(teacher),
            student=_side(student),
            agree=_same(sides[0], sides[1]) if both else None,
        )

    def _job(self, job_id: str | None) -> Job | None:
        try:
            return self._context.jobs.get(job_id) if job_id else None
        except NotFound:
            return None  # published by another installation on the same store

    def _of_student(self, asked: ComparisonRequest, job: Job | None) -> Side:
        if not self._url:
            raise Unavailable("no student service is known here: set UNDERSTUDY_STUDENT_URL to its address")
        count = job.distillation.attribution.most_words if job and job.distils else WORDS
        question = PredictionInput(input=asked.input, choices=asked.choices)
        began = time.perf_counter()
        with StudentClient(self._url, api_key=self._key, timeout=STUDENT_SECONDS) as service:
            answer = service.predict(PredictionRequest(model=asked.model, inputs=(question,), top_k=count))
        said = answer.predictions[0]
        return Side(
            model=answer.artifact,
            label=said.label,
            probability=said.probability,
            probabilities=said.probabilities,
            words=said.words or (),
            rationale=said.words or (),
            reasons=answer.reasons,
            ms=_since(began),
        )

    def _of_teacher(self, asked: ComparisonRequest, job: Job | None, job_id: str | None) -> Side:
        if job is None:
            raise NotFound(f"the job that made the model ({job_id or 'unknown'}) is not known here, nor its teacher")
        if not job.distils or job.facts.teacher is None:
            raise Conflict(f"the model of job {job.id} was fine-tuned without a teacher")
        check = _deadline(TEACHER_SECONDS)
        if not self._context.teachers.ready(check):
            raise Unavailable("no teacher service is ready: is one running at UNDERSTUDY_TEACHER_URLS?")
        question = PredictionInput(id="0", input=asked.input, choices=asked.choices)
        request = attribution_request(job, job.facts.teacher, [question])
        began = time.perf_counter()
        said = self._context.teachers.attribute(request, check)[0].results[0]
        return Side(
            model=job.distillation.teacher.model,
            label=said.prediction,
            probability=said.probability,
            probabilities=said.probabilities,
            words=said.words,
            rationale=said.rationale,
            reasons=request.method,
            ms=_since(began),
        )


class _Failed:
    def __init__(self, model: str | None, error: UnderstudyError) -> None:
        self.model, self.error = model, error


def _tried(model: str | None, ask: Callable[[], Side]) -> Side | _Failed:
    try:
        return ask()
    except UnderstudyError as error:
        return _Failed(model, error)


def _side(found: Side | _Failed) -> Side:
    return found if isinstance(found, Side) else Side(model=found.model, error=JobError.of(found.error))


def _same(one: Side, other: Side) -> bool:
    return (one.label or "").strip() == (other.label or "").strip()


def _since(began: float) -> float:
    return round(1000 * (time.perf_counter() - began), 1)


def _deadline(seconds: float) -> Callable[[], None]:
    end = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > end:
            raise Unavailable(f"the teacher did not answer within {seconds:.0f} s: it may still be loading its model")

    return check
