"""How many steps and runs a job's trainings are, before they begin. Pure; imports no torch.

A full training's steps are those that the trainer itself will plan, and a short one's are a share of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.orchestrator.jobs import PLAIN, Arm, Job
from understudy.models.names import PREFIX
from understudy.schemas import Hyperparameters
from understudy.training.plan import Shape, resolve
from understudy.training.recipes import AUTO, parse_recipe

__all__ = [
    "KEEP",
    "LEAST_STEPS",
    "SEARCH_FROM",
    "SHARE",
    "Round",
    "contested",
    "going_on",
    "left_after",
    "pays",
    "planned_steps",
    "search_rounds",
    "short_steps",
    "student_steps",
]

SEARCH_FROM = 6
"""Candidates, `finetune` among them, from which a search pays.

Of 6 it leaves 4: their short trainings cost as much as 1.5 full ones, and 2 full ones, with their controls and for
every seed, are saved. Of 5 it would leave 4, for 1.25.
"""

KEEP = 3
"""Candidates beside `finetune` that go on: few enough to save time, while the best may be third after a quarter."""

SHARE = 0.25
"""Of a full training's steps. Its learning rate falls as fast, so that what is compared are whole trainings."""

LEAST_STEPS = 150
"""Shorter trainings from nothing have hardly left the start, and tell candidates apart by chance."""


def planned_steps(model: str, asked: Hyperparameters, rows: int) -> int:
    """Only the learning rate depends on the rest of a model's shape."""
    scratch = model.startswith(PREFIX)
    return resolve(asked, rows=rows, shape=Shape("classifier", parameters=0, width=1, layers=1, scratch=scratch)).steps


def student_steps(job: Job, train_rows: int, unlabelled: int) -> int:
    """Of one training on that many rows; of the unlabelled ones those that a teacher is not sure of will fall away."""
    return planned_steps(job.model, job.hyperparameters, train_rows + unlabelled)


def short_steps(steps: int) -> int:
    """What a search takes of a training of so many steps."""
    return min(steps, max(LEAST_STEPS, math.ceil(SHARE * steps)))


@dataclass(frozen=True)
class Round:
    """So many trainings of `steps` each."""

    runs: int
    steps: int


def search_rounds(job: Job, arms: Sequence[Arm], steps: int) -> tuple[Round, ...]:
    """The rounds of a search where a full training has so many steps.

    The last takes twice as many candidates as may go on, the one before it twice as many on half the steps, and so on;
    the first takes all. There are as many rounds as make the fewest steps, none of them too short to say something. A
    training that has a time in place of steps is tried in one round. What goes on however it does is tried in the first
    alone.
    """
    names = [arm.name for arm in arms if arm.candidate]
    others = len(contested(job, names))
    longest = short_steps(steps)
    most = 1 if job.hyperparameters.seconds else max(1, (longest // LEAST_STEPS).bit_length())
    ways = [_ways(len(names), others, longest, count) for count in range(1, most + 1)]
    return min(ways, key=lambda rounds: sum(one.runs * one.steps for one in rounds))


def _ways(first: int, others: int, longest: int, count: int) -> tuple[Round, ...]:
    """A search of `count` rounds, with all in the first one."""
    runs = [first, *(min(others, left_after(place, count)) for place in range(1, count))]
    return tuple(Round(one, longest >> (count - 1 - place)) for place, one in enumerate(runs))


def left_after(rounds: int, of: int) -> int:
    """How many of the contested candidates are left after so many rounds of a search, at most."""
    return KEEP * 2 ** (of - rounds)


def contested(job: Job, names: Sequence[str]) -> list[str]:
    """The candidates that a search decides about: `finetune` and what was asked for by name go on in any case."""
    return [name for name in names if name not in _named(job)]


def _named(job: Job) -> set[str]:
    return {parse_recipe(name).treated.name for name in job.recipes if name != AUTO} | {PLAIN}


def pays(job: Job, arms: Sequence[Arm]) -> bool:
    """Whether the job, with these arms, tries its candidates on short trainings first."""
    if not job.distils or job.distillation.search == "off" or AUTO not in job.recipes:
        return False
    return sum(arm.candidate for arm in arms) >= SEARCH_FROM


def going_on(job: Job, arms: Sequence[Arm], best_first: Sequence[str]) -> tuple[Arm, ...]:
    """The arms to train in full: `finetune`, what was asked for by name, the best others, and all their controls."""
    kept = _named(job) | set(contested(job, best_first)[:KEEP])
    return tuple(arm for arm in arms if arm.name in kept or arm.control_of in kept)
