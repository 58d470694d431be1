"""A dry run: all that a job's first phase would find out, and what the job would cost, without making a job.

It reads the files as the phase `validate` does; tokens are counted in a child process, because only a model's own
tokenizer can tell and this process must not import torch. Bounded in how much it reads, how long it takes and how many
run at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel, ConfigDict

from services.orchestrator import stages, vocabularies
from services.orchestrator.child import run_child
from services.orchestrator.context import Context
from services.orchestrator.estimate import expect
from services.orchestrator.jobs import Arm, Estimate, Job, Rows
from services.orchestrator.phases import validate
from services.orchestrator.phases.fields import told_as
from services.orchestrator.places import Places
from services.orchestrator.steps import pays
from understudy.data.parquet import write_examples
from understudy.errors import InvalidRequest, PayloadTooLarge, Unavailable, from_body
from understudy.schemas import RejectedRow, TaskSpec

__all__ = ["Checked", "DryRun", "ModelTokens"]

MAX_BYTES = 64 * 1024**2
MAX_SECONDS = 120.0
AT_ONCE = 2
SAMPLE = 2000
"""Training rows whose tokens are counted; they are in the order of their content's hash, so the first are a sample."""


class ModelTokens(BaseModel):
    """The training rows as a model reads them, once; `rows` of them were counted, and `tokens` is scaled up to all."""

    model_config = ConfigDict(frozen=True)

    model: str
    rows: int
    tokens: int
    longest: int
    window: int
    truncated_share: float


class Checked(BaseModel):
    """What submitting the same body would lead to. A body that could not be submitted gets the error instead."""

    model_config = ConfigDict(frozen=True)

    task: TaskSpec
    rows: Rows
    rejected: tuple[RejectedRow, ...]
    architecture: str
    arms: tuple[Arm, ...]
    searches: bool
    student: ModelTokens
    teacher: ModelTokens | None
    estimate: Estimate


class DryRun:
    def __init__(self, context: Context, stopping: Callable[[], bool]) -> None:
        self._context = context
        self._stopping = stopping
        self._places = Places(AT_ONCE, "dry runs")

    def check(self, job: Job) -> Checked:
        """Raises what would fail the job in its first phase, and PayloadTooLarge, Overloaded or Unavailable."""
        _check_packages()
        self._bound(job)
        with self._places.one():
            return self._check(job, _deadline(self._stopping))

    def _bound(self, job: Job) -> None:
        size = sum(self._context.files.get(file_id).bytes for file_id in job.files.values())
        if size > MAX_BYTES:
            raise PayloadTooLarge(
                f"the files have {size} bytes and a dry run reads {MAX_BYTES}: submit the job, whose first phase "
                "checks the same",
                param="training_file",
            )

    def _check(self, job: Job, check: Callable[[], None]) -> Checked:
        found = validate.examine(self._context, job, check)
        validate.check_sizes(job, found)
        measured = self._measure(job, found, check)
        arms = validate.arms_of(job, measured["student"]["architecture"], found, measured["shared"])
        estimate = expect(self._context, job, found.rows, arms)
        teacher = _tokens(job.distillation.teacher.model, measured["teacher"], found.rows) if job.distils else None
        if job.distils and teacher is None:
            why = f"teacher tokens: its tokenizer is not at hand here ({measured['teacher']['message']})"
            estimate = estimate.model_copy(update={"unknown": (*estimate.unknown, why)})
        student = _tokens(job.model, measured["student"], found.rows)
        assert student is not None
        return Checked(
            task=found.task,
            rows=found.rows,
            rejected=tuple(found.rejected[: validate.SHOWN]),
            architecture=measured["student"]["architecture"],
            arms=arms,
            searches=pays(job, arms),
            student=student,
            teacher=teacher,
            estimate=estimate,
        )

    def _measure(self, job: Job, found: validate.Examined, check: Callable[[], None]) -> dict[str, Any]:
        with TemporaryDirectory() as place:
            rows = Path(place) / "rows.parquet"
            write_examples(rows, found.splits["train"][:SAMPLE])
            models = {"student": job.student_so_far} | (
                {"teacher": job.distillation.teacher.model} if job.distils else {}
            )
            spec = {
                "models": models,
                "rows": str(rows),
                "task": found.task.model_dump(mode="json"),
                "artifacts": self._context.settings.artifact_root,
                "shared": vocabularies.question(job, found.task, found.splits["train"]),
            }
            answer = dict(run_child(stages.measure, spec, Path(place), emit=lambda _: None, check=check))
        if problem := answer["student"].get("problem"):
            with told_as({}, default="model"):
                raise from_body(problem["status"], problem["body"])
        return answer


def _check_packages() -> None:
    """The service itself needs no models; only a dry run tokenises here."""
    if missing := [name for name in ("torch", "transformers") if find_spec(name) is None]:
        raise InvalidRequest(
            f"this service makes no dry runs: {' and '.join(missing)} are not installed where it runs; submit the job, "
            "whose first phase checks the same, or have the service installed with understudy[models]",
            param="dry_run",
        )


def _tokens(model: str, measured: dict[str, Any], rows: Rows) -> ModelTokens | None:
    if "problem" in measured:
        return None
    counted = measured["rows"]
    return ModelTokens(
        model=model,
        rows=counted,
        tokens=round(measured["tokens"] * rows.train / counted),
        longest=measured["longest"],
        window=measured["window"],
        truncated_share=round(measured["truncated"] / counted, 4),
    )


def _deadline(stopping: Callable[[], bool]) -> Callable[[], None]:
    end = time.monotonic() + MAX_SECONDS

    def check() -> None:
        if stopping() or time.monotonic() > end:
            raise Unavailable(f"the dry run took longer than {MAX_SECONDS:.0f} s: submit the job instead")

    return check
