"""What a job will cost, before it begins: steps, teacher calls, time and disk, from what earlier jobs here took.

Nothing is guessed: a phase that no earlier job of the same kind went through has no time, and the reason is said.
Times are of one worker. Knows nothing of HTTP.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from sqlalchemy import and_, exists, func, select

from services.orchestrator.context import Context
from services.orchestrator.database import jobs, work_items
from services.orchestrator.jobs import Arm, Estimate, Job, Phase, Rows
from services.orchestrator.steps import (
    SHARE,
    Round,
    going_on,
    pays,
    planned_steps,
    search_rounds,
    student_steps,
)
from understudy.models.names import is_cut, parse_cut

__all__ = ["estimated", "expect"]

JOBS_LOOKED_AT = 200
MODELS_LOOKED_AT = 5


def expect(context: Context, job: Job, rows: Rows, arms: tuple[Arm, ...]) -> Estimate:
    """The job's estimate, from its validated rows and its planned arms."""
    train_rows = min(rows.train, job.spec.max_train_rows or rows.train)
    full = len(_most_arms(job, arms))
    steps = student_steps(job, train_rows, rows.unlabelled)
    tries = search_rounds(job, arms, steps) if pays(job, arms) else ()
    curve = [student_steps(job, size, rows.unlabelled) for size in job.spec.sizes]
    runs = full * len(job.spec.seeds) * (1 + len(curve))
    explained = [train_rows, rows.unlabelled] if job.distils else []
    calls = sum(math.ceil(count / context.settings.teacher_max_examples) for count in explained)
    units: dict[Phase, int] = {
        "validate": rows.train + rows.validation + rows.test + rows.rejected + rows.unlabelled,
        "preflight": 1,
        "annotate": sum(explained),
        "search": sum(one.runs * one.steps for one in tries),
        "train": (steps + sum(curve)) * full * len(job.spec.seeds),
        "evaluate": rows.test * runs,
        "publish": 1,
    }
    if job.distils and job.distillation.teacher.finetune:
        teacher = job.distillation.teacher
        units["teacher"] = planned_steps(teacher.model, teacher.hyperparameters, rows.train)
    paces = _paces(context, job)
    phases = [phase for phase in job.phases if phase != "search" or tries]
    seconds = {phase: _product(units[phase], paces.get(phase)) for phase in phases}
    seconds |= {phase: took for phase, took in _timed(job, runs, tries).items() if phase in seconds}
    disk = _disk(context, job, runs)
    known = [value for value in seconds.values() if value is not None]
    missing = [phase for phase, value in seconds.items() if value is None]
    unknown = [f"seconds of {', '.join(missing)}: no earlier job here did the same"] if missing else []
    if disk is None:
        unknown.append(f"disk_bytes: no earlier job here trained '{job.model}'")
    if job.hyperparameters.seconds is not None:
        unknown.append(f"steps: each training takes {job.hyperparameters.seconds:g} s, however many they are")
        steps, tries = 0, tuple(Round(one.runs, 0) for one in tries)
    return Estimate(
        runs=runs,
        steps_per_run=steps,
        search_runs=sum(one.runs for one in tries),
        search_steps_per_run=tries[-1].steps if tries else 0,
        teacher_examples=sum(explained),
        teacher_calls=calls,
        seconds_by_phase=seconds,
        seconds=round(sum(known), 1) if len(known) == len(seconds) else None,
        disk_bytes=disk,
        unknown=tuple(unknown),
    )


def estimated(job: Job, eta: float | None, now: float) -> int | None:
    """When a running job is likely to end: the rest of its phase, and what the phases behind it were estimated at."""
    if job.status != "running" or job.facts.estimate is None:
        return None
    order, told = job.phases, job.facts.estimate.seconds_by_phase
    later = [told.get(phase) for phase in order[order.index(job.phase) + 1 :]] if job.phase in order else []
    rest = [told.get(job.phase) if eta is None else eta, *later]
    known = [seconds for seconds in rest if seconds is not None]
    return math.ceil(now + sum(known)) if len(known) == len(rest) else None


def _timed(job: Job, runs: int, tries: Sequence[Round]) -> dict[Phase, float]:
    """The phases whose trainings have a time in place of steps, validations left out."""
    found: dict[Phase, float] = {}
    if (whole := job.hyperparameters.seconds) is not None:
        found |= {"train": round(runs * whole, 1), "search": round(SHARE * whole * sum(one.runs for one in tries), 1)}
    if job.distils and (whole := job.distillation.teacher.hyperparameters.seconds) is not None:
        found["teacher"] = whole
    return found


def _most_arms(job: Job, arms: Sequence[Arm]) -> Sequence[Arm]:
    """The arms that are trained in full, where a search goes on with those that have the most controls."""
    if not pays(job, arms):
        return arms
    controls = Counter(arm.control_of for arm in arms)
    candidates = sorted((arm.name for arm in arms if arm.candidate), key=lambda name: -controls[name])
    return going_on(job, arms, candidates)


def _product(units: int, pace: float | None) -> float | None:
    return None if pace is None else round(units * pace, 1)


def _paces(context: Context, job: Job) -> Mapping[str, float]:
    """Seconds of one worker for a unit of each phase, over the items that earlier jobs of the same kind finished."""
    spent = func.sum(work_items.c.finished_at - work_items.c.started_at).label("seconds")
    query = (
        select(jobs.c.request, work_items.c.phase, spent, func.sum(work_items.c.total).label("units"))
        .join(work_items, work_items.c.job_id == jobs.c.id)
        .where(work_items.c.state == "done")
        .group_by(jobs.c.seq, work_items.c.phase)
        .order_by(jobs.c.seq.desc())
        .limit(JOBS_LOOKED_AT * len(job.phases))
    )
    seconds: dict[str, float] = defaultdict(float)
    units: dict[str, int] = defaultdict(int)
    with context.database.read() as sql:
        for row in sql.execute(query):
            if row.units and row.seconds is not None and _alike(row.phase, row.request, job):
                seconds[row.phase] += row.seconds
                units[row.phase] += row.units
    return {phase: seconds[phase] / units[phase] for phase in units}


def _alike(phase: str, request: Mapping[str, Any], job: Job) -> bool:
    """Whether a phase of that earlier job says how long the same phase of this one takes."""
    if phase in ("search", "train", "evaluate"):
        return _same_student(request, job)
    if phase in ("preflight", "annotate", "teacher"):
        teacher = request["spec"].get("teacher")
        return bool(teacher) and job.distils and teacher["model"] == job.distillation.teacher.model
    return True


def _same_student(request: Mapping[str, Any], job: Job) -> bool:
    """Of the same name, and cut from the same teacher where that is what the name means."""
    if request["model"] != job.model:
        return False
    own = is_cut(job.model) and parse_cut(job.model).base is None
    return not own or bool(request["spec"]["teacher"]["model"] == job.distillation.teacher.model)


def _disk(context: Context, job: Job, runs: int) -> int | None:
    """Every trained model and the published copy, by what the same student took before; the data come on top."""
    trained = and_(work_items.c.phase == "train", work_items.c.state == "done")
    earlier = (
        select(jobs.c.id, jobs.c.request)
        .where(exists().where(work_items.c.job_id == jobs.c.id, trained))
        .order_by(jobs.c.seq.desc())
        .limit(JOBS_LOOKED_AT)
    )
    with context.database.read() as sql:
        # Compared here: a database that looks into the JSON of every job fails at one that it cannot parse.
        alike = [row.id for row in sql.execute(earlier) if _same_student(row.request, job)]
        results = select(work_items.c.result).where(work_items.c.job_id.in_(alike), trained)
        newest = results.order_by(work_items.c.seq.desc()).limit(MODELS_LOOKED_AT)
        models = [result["artifact"] for result in sql.scalars(newest)]
    sizes = [context.artifacts.get(model).bytes for model in models if context.artifacts.exists(model)]
    if not sizes:
        return None
    data = sum(context.files.get(file_id).bytes for file_id in job.files.values())
    return round(fmean(sizes) * (runs + 1)) + data
