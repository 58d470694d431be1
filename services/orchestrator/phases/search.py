"""Search: many candidates on a short training each; the best by validation go on to be trained in full.

Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943; Karnin et al. 2013) in one round: equal short
budgets, then the whole one for the best few. Controls are not tried: they follow the recipe that they control. The test
split is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from services.orchestrator.budget import seconds_for_a_try
from services.orchestrator.context import Context, Grip
from services.orchestrator.jobs import PLAIN, Event, Item, Job, NewItem
from services.orchestrator.phases.train import student_spec, train_in_child
from services.orchestrator.steps import going_on, short_steps, student_steps
from understudy.evaluation.spec import Searched
from understudy.training.recipes import parse_recipe

__all__ = ["Tried", "absorb", "plan", "run"]


class Tried(BaseModel):
    """How far a candidate came on its short training; its model is not kept."""

    model_config = ConfigDict(frozen=True)

    recipe: str
    validation_accuracy: float
    validation_loss: float
    steps: int


def plan(job: Job) -> list[NewItem]:
    """One item a candidate, with the first seed."""
    candidates = [arm.name for arm in job.facts.arms if arm.candidate]
    steps = short_steps(student_steps(job, job.train_rows, job.unlabelled_rows))
    bound = seconds_for_a_try(job, len(candidates))
    common = {"seed": job.seed, "max_steps": steps, "max_seconds": bound}
    return [NewItem(payload={"recipe": name, **common}) for name in candidates]


def run(context: Context, job: Job, item: Item, grip: Grip) -> Tried:
    payload = item.payload
    recipe, seed = str(payload["recipe"]), int(payload["seed"])
    spec = student_spec(context, job, recipe, seed, max_seconds=payload["max_seconds"])
    short = spec.hyperparameters.model_copy(update={"max_steps": payload["max_steps"]})
    spec = spec.model_copy(update={"hyperparameters": short})
    labels = {"arm": recipe, "seed": seed, "search": True}
    result = train_in_child(context, job, item, grip, spec, labels, f"search, {recipe}")
    share = f"{100 * result.validation_accuracy:.1f} %"
    grip.event(Event(message=f"The search tried {recipe}: {share} of the validation rows after {result.steps} steps"))
    return Tried(
        recipe=recipe,
        validation_accuracy=result.validation_accuracy,
        validation_loss=result.validation_loss,
        steps=result.steps,
    )


def absorb(job: Job, results: Sequence[Tried]) -> Job:
    """Keep the arms of the best candidates, and what was found of all of them, the best first."""
    ranked = sorted(results, key=_place)
    arms = going_on(job, job.facts.arms, [one.recipe for one in ranked])
    kept = {arm.name for arm in arms}
    searched = tuple(
        Searched(
            recipe=one.recipe,
            validation_accuracy=one.validation_accuracy,
            steps=one.steps,
            kept=one.recipe in kept,
        )
        for one in ranked
    )
    return job.with_facts(arms=arms, searched=searched, findings=(*job.facts.findings, _told(searched)))


def _place(one: Tried) -> tuple[float, float, int]:
    """More rows right, then surer of the right answers, then the plainer recipe."""
    return -one.validation_accuracy, one.validation_loss, len(parse_recipe(one.recipe).components)


def _told(searched: Sequence[Searched]) -> str:
    others = [one for one in searched if one.recipe != PLAIN]
    on = ", ".join(f"{one.recipe} ({100 * one.validation_accuracy:.1f} %)" for one in others if one.kept)
    out = ", ".join(f"{one.recipe} ({100 * one.validation_accuracy:.1f} %)" for one in others if not one.kept)
    return (
        f"After short trainings of {len(searched)} candidates these are trained in full beside finetune: {on}. "
        f"These are not: {out}"
    )
