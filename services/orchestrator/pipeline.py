"""The one table of a job's phases: on which queue each runs, what it counts, its items, its work, what the job keeps.

To add a phase, write its module in `phases` and its row here. Knows no SQL and no broker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import structlog
from pydantic import BaseModel

from services.orchestrator.context import Context, Grip
from services.orchestrator.flow import Next
from services.orchestrator.jobs import Item, Job, NewItem, Phase, Queue
from services.orchestrator.phases import annotate, evaluate, preflight, publish, search, train, validate
from services.orchestrator.settings import Settings

__all__ = ["STAGES", "Stage", "finish", "first_items"]

log = structlog.get_logger()

Results = list[Mapping[str, Any]]


@dataclass(frozen=True)
class Stage:
    """`plan` gives the items of a phase that begins, `absorb` what the job keeps of their results; both are pure.

    `again` gives the items of the phase's next round from the results of all before it, none where it is over.
    """

    queue: Queue
    unit: str
    run: Callable[[Context, Job, Item, Grip], BaseModel]
    absorb: Callable[[Job, Results], Job] = lambda job, _: job
    plan: Callable[[Job, Settings], list[NewItem]] = lambda _, __: [NewItem()]
    again: Callable[[Job, Results], list[NewItem]] = lambda _, __: []


STAGES: Mapping[Phase, Stage] = MappingProxyType(
    {
        "validate": Stage(
            "control",
            "rows",
            validate.run,
            absorb=lambda job, results: validate.absorb(job, validate.Validated.model_validate(results[0])),
        ),
        "preflight": Stage(
            "control",
            "checks",
            preflight.run,
            absorb=lambda job, results: preflight.absorb(job, preflight.Checked.model_validate(results[0])),
            plan=lambda _, __: [NewItem(total=1)],
        ),
        "teacher": Stage(
            "train",
            "steps",
            train.run_teacher,
            absorb=lambda job, results: train.absorb_teacher(job, train.Taught.model_validate(results[0])),
        ),
        "annotate": Stage(
            "annotate",
            "examples",
            annotate.run,
            absorb=lambda job, results: annotate.absorb(job, annotate.annotated(results)),
            plan=lambda job, settings: annotate.plan(job, settings.shard_size),
        ),
        "search": Stage(
            "train",
            "steps",
            search.run,
            absorb=lambda job, results: search.absorb(job, [search.Tried.model_validate(r) for r in results]),
            plan=lambda job, _: search.plan(job),
            again=lambda job, results: search.again(job, [search.Tried.model_validate(r) for r in results]),
        ),
        "train": Stage(
            "train",
            "steps",
            train.run,
            absorb=lambda job, results: train.absorb(job, [train.Trained.model_validate(r) for r in results]),
            plan=lambda job, _: train.plan(job),
        ),
        "evaluate": Stage(
            "train",
            "predictions",
            evaluate.run,
            absorb=lambda job, results: evaluate.absorb(job, evaluate.Evaluated.model_validate(results[0])),
        ),
        "publish": Stage(
            "control",
            "models",
            publish.run,
            absorb=lambda job, results: publish.absorb(job, publish.Published.model_validate(results[0])),
            plan=lambda _, __: [NewItem(total=1)],
        ),
    }
)


def first_items(job: Job, settings: Settings) -> Next:
    """The items with which a new job begins."""
    return _items(job, settings)


def finish(context: Context, job_id: str, phase: Phase) -> None:
    """Move a job on whose phase has nothing left to do; nothing happens where another process was first."""
    before = context.jobs.get(job_id)
    order: list[Phase] = [*before.phases, "done"]
    following = order[order.index(phase) + 1]

    lost = annotate.set_aside(context, before) if phase == "annotate" else ()

    def advance(job: Job, results: Results) -> tuple[Job, Next | None]:
        if more := STAGES[phase].again(job, results):
            return job.model_copy(update={"phase": phase}), Next(STAGES[phase].queue, more)
        job = STAGES[phase].absorb(_started(job.with_facts(set_aside=lost) if lost else job), results)
        if following == "done":
            job = job.to("succeeded", finished_at=int(context.clock()))
            publish.move_alias(context, job)  # before the commit, and the job's row is locked: `aliases` says why
            return job, None
        return job, _items(job, context.settings)

    job = context.flow.finish(job_id, phase, following, advance, since=before.phase_started_at)
    if job is not None:
        log.info("phase_finished", job_id=job_id, phase=phase, following=job.phase, status=job.status)


def _started(job: Job) -> Job:
    """A job that has finished a phase has been validated, and is running unless only that is behind it."""
    if job.status == "validating_files":
        return job.to("queued")
    return job.to("running") if job.status == "queued" else job


def _items(job: Job, settings: Settings) -> Next:
    stage = STAGES[job.phase]
    return Next(stage.queue, stage.plan(job, settings))
