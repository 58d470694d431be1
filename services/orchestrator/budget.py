"""A job's budget: how much of it is spent, and how much of it each phase may take. Pure.

Seconds run from the beginning of the job's first work, pauses left out. A teacher that is fine-tuned first gets a
quarter of them, annotation ends when half are spent, a search gets a quarter of what is left then, and the students
share the rest in equal parts: equal time, which is the same budget for every arm. Evaluation and publishing are short
and are not cut.
"""

from __future__ import annotations

from services.orchestrator.jobs import Job
from understudy.errors import BudgetExhausted

__all__ = ["annotation_is_over", "seconds_for_a_run", "seconds_for_a_try", "seconds_for_the_teacher", "sentence"]

TEACHER_SHARE = 0.25
BEFORE_TRAINING = 0.5
SEARCH_SHARE = 0.25  # of what is left when it begins, as its trainings are a quarter as long as full ones


def annotation_is_over(job: Job, now: float, tokens: int) -> bool:
    """Whether the teacher may be asked no more, after so many tokens."""
    budget = job.spec.budget
    if budget is None:
        return False
    if budget.teacher_tokens is not None and tokens >= budget.teacher_tokens:
        return True
    return budget.seconds is not None and _spent(job, now) >= BEFORE_TRAINING * budget.seconds


def seconds_for_the_teacher(job: Job) -> float | None:
    """What its fine-tuning may take; None without a bound."""
    budget = job.spec.budget
    return None if budget is None or budget.seconds is None else TEACHER_SHARE * budget.seconds


def seconds_for_a_run(job: Job, runs: float) -> float | None:
    """What each training may take of a phase that begins now; None without a bound. Raises BudgetExhausted."""
    budget = job.spec.budget
    if budget is None or budget.seconds is None:
        return None
    left = budget.seconds - _spent(job, job.phase_started_at)
    if left <= 0:
        raise BudgetExhausted(
            f"the budget of {budget.seconds:g} s is spent before a student was trained: raise it, or give fewer rows",
            param=job.field("budget.seconds"),
        )
    return left / runs


def seconds_for_a_try(job: Job, runs: float) -> float | None:
    """What each short training of a search that begins now may take; as `seconds_for_a_run` otherwise."""
    seconds = seconds_for_a_run(job, runs)
    return None if seconds is None else SEARCH_SHARE * seconds


def sentence(job: Job) -> str:
    """`a budget of 60 s and 1,000 teacher tokens`."""
    budget = job.spec.budget
    assert budget is not None
    parts = [f"{budget.seconds:g} s"] if budget.seconds is not None else []
    parts += [f"{budget.teacher_tokens:,} teacher tokens"] if budget.teacher_tokens is not None else []
    return f"the budget of {' and '.join(parts)}"


def _spent(job: Job, now: float) -> float:
    began = job.phase_started_at if job.facts.began_at is None else job.facts.began_at
    return now - began - job.paused_seconds
