"""Search: many candidates on a short training each; the best by validation go on to be trained in full.

Successive halving (Karnin, Koren and Somekh 2013; Jamieson and Talwalkar 2016, arXiv 1502.07943): each round keeps the
better half and gives it twice the steps. A round trains anew, and does not go on from the last one's checkpoints: by
their end the learning rate has fallen to zero, as it does in a full training, and what is compared are whole trainings.
Controls are not tried: they follow the recipe that they control. The test split is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from services.orchestrator.budget import seconds_for_a_try
from services.orchestrator.context import Context, Grip
from services.orchestrator.jobs import PLAIN, Event, Item, Job, NewItem
from services.orchestrator.phases.train import student_spec, train_in_child
from services.orchestrator.steps import SHARE, Round, contested, going_on, left_after, search_rounds, student_steps
from understudy.evaluation.spec import Searched
from understudy.training.recipes import parse_recipe

__all__ = ["Tried", "absorb", "again", "plan", "run"]


class Tried(BaseModel):
    """How far a candidate came on its short training; its model is not kept. `max_seconds` is what it might take."""

    model_config = ConfigDict(frozen=True)

    recipe: str
    validation_accuracy: float
    validation_loss: float
    steps: int
    round: int = 1
    max_seconds: float | None = None


def plan(job: Job) -> list[NewItem]:
    """The first round: one item a candidate, with the first seed."""
    rounds = _rounds(job)
    # As if all rounds were of the first one's length: what a step may take is the same in each.
    runs = sum(one.runs * one.steps for one in rounds) / rounds[0].steps
    candidates = [arm.name for arm in job.facts.arms if arm.candidate]
    return _items(job, candidates, 1, rounds[0], seconds_for_a_try(job, runs))


def again(job: Job, results: Sequence[Tried]) -> list[NewItem]:
    """The next round, of what the last one left; none where that was the last of all."""
    rounds, last = _rounds(job), max(one.round for one in results)
    if last >= len(rounds):
        return []
    tries = [one for one in results if one.round == last]
    left = _contested(job, tries)[: left_after(last, len(rounds))]
    before, following = rounds[last - 1], rounds[last]
    bound = tries[0].max_seconds and tries[0].max_seconds * following.steps / before.steps
    return _items(job, [one.recipe for one in left], last + 1, following, bound)


def run(context: Context, job: Job, item: Item, grip: Grip) -> Tried:
    payload = item.payload
    recipe, seed = str(payload["recipe"]), int(payload["seed"])
    spec = student_spec(context, job, recipe, seed, max_seconds=payload["max_seconds"])
    length = {"max_steps": payload["max_steps"]}
    if job.hyperparameters.seconds is not None:
        length = {"seconds": SHARE * job.hyperparameters.seconds}
    spec = spec.model_copy(update={"hyperparameters": spec.hyperparameters.model_copy(update=length)})
    labels = {"arm": recipe, "seed": seed, "search": True}
    result = train_in_child(context, job, item, grip, spec, labels, f"search, {recipe}")
    share = f"{100 * result.validation_accuracy:.1f} %"
    grip.event(Event(message=f"The search tried {recipe}: {share} of the validation rows after {result.steps} steps"))
    return Tried(
        recipe=recipe,
        validation_accuracy=result.validation_accuracy,
        validation_loss=result.validation_loss,
        steps=result.steps,
        round=payload.get("round", 1),
        max_seconds=payload["max_seconds"],
    )


def absorb(job: Job, results: Sequence[Tried]) -> Job:
    """Keep the arms of the best candidates of the last round, and what was found in all, the best of each first."""
    ranked = sorted(results, key=_place)
    last = max(one.round for one in ranked)
    arms = going_on(job, job.facts.arms, [one.recipe for one in ranked if one.round == last])
    kept = {arm.name for arm in arms}
    searched = tuple(
        Searched(
            recipe=one.recipe,
            validation_accuracy=one.validation_accuracy,
            steps=one.steps,
            kept=one.recipe in kept or any(other.round > one.round for other in ranked if other.recipe == one.recipe),
            round=one.round,
        )
        for one in sorted(ranked, key=lambda one: one.round)
    )
    return job.with_facts(arms=arms, searched=searched, findings=(*job.facts.findings, _told(searched)))


def _rounds(job: Job) -> tuple[Round, ...]:
    return search_rounds(job, job.facts.arms, student_steps(job, job.train_rows, job.unlabelled_rows))


def _items(job: Job, recipes: Sequence[str], number: int, one: Round, bound: float | None) -> list[NewItem]:
    common = {"seed": job.seed, "round": number, "max_steps": one.steps, "max_seconds": bound}
    return [NewItem(payload={"recipe": name, **common}) for name in recipes]


def _contested(job: Job, tries: Sequence[Tried]) -> list[Tried]:
    """Those that the search decides about, the best first."""
    names = set(contested(job, [one.recipe for one in tries]))
    return sorted((one for one in tries if one.recipe in names), key=_place)


def _place(one: Tried) -> tuple[float, float, int]:
    """More rows right, then surer of the right answers, then the plainer recipe."""
    return -one.validation_accuracy, one.validation_loss, len(parse_recipe(one.recipe).components)


def _told(searched: Sequence[Searched]) -> str:
    """Of each candidate how it did in its last round."""
    latest = {one.recipe: one for one in searched}
    others = [one for one in searched if one is latest[one.recipe] and one.recipe != PLAIN]
    others.sort(key=lambda one: -one.round)
    on = ", ".join(f"{one.recipe} ({100 * one.validation_accuracy:.1f} %)" for one in others if one.kept)
    out = ", ".join(f"{one.recipe} ({100 * one.validation_accuracy:.1f} %)" for one in others if not one.kept)
    return (
        f"After short trainings of {len(latest)} candidates these are trained in full beside finetune: {on}. "
        f"These are not: {out}"
    )
