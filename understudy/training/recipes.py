"""Recipes: which of the teacher's signals a student learns from, as declarations. Imports no torch.

A recipe's name is its components joined by `+` in canonical order. Every recipe trains on the label; a component adds
one loss term to that. `finetune` is the recipe of no component. The modifier `random_rationale` swaps the teacher's
words for as many random words of the same input: the control that shows whether the *choice* of words helped.

Adding a recipe is one entry in COMPONENTS and, for a new kind of loss, one entry in `objective.TERMS`. Knows nothing of
how a loss is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from understudy.errors import InvalidRequest, UnknownName
from understudy.schemas import TaskSpec

__all__ = ["AUTO", "COMPONENTS", "RECIPES", "Arm", "Component", "Recipe", "fits", "parse_recipe", "plan_arms"]

AUTO = "auto"
_PLAIN = "finetune"
_CONTROL = "random_rationale"

Architecture = str  # "seq2seq", "causal" or "classifier", as `models.load.architecture` answers


@dataclass(frozen=True)
class Component:
    """One loss term beside the label's.

    `term` names it in the trainer; `reads` is what of an annotation it needs: the teacher's words or its distribution
    over the candidate answers. `closed` terms need such candidates: a label set, or choices on every row.
    """

    name: str
    term: Literal["explanation", "gate", "distribution"]
    reads: Literal["words", "distribution"]
    architectures: frozenset[str]
    closed: bool
    says: str


COMPONENTS: tuple[Component, ...] = (
    Component(
        name="saliency",
        term="explanation",
        reads="words",
        architectures=frozenset({"seq2seq"}),
        closed=False,
        says="the student writes the teacher's words as a second task (arXiv 2409.12586)",
    ),
    Component(
        name="rationale_gate",
        term="gate",
        reads="words",
        architectures=frozenset({"classifier"}),
        closed=False,
        says="a gate on each token learns the teacher's words, and the label is read through it",
    ),
    Component(
        name="logit_kd",
        term="distribution",
        reads="distribution",
        architectures=frozenset({"classifier", "seq2seq"}),
        closed=True,
        says="the student follows the teacher's probabilities of all candidate answers (Hinton et al. 2015)",
    ),
)


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe. `random_words` marks the control."""

    components: tuple[Component, ...] = ()
    random_words: bool = False

    @property
    def name(self) -> str:
        parts = [component.name for component in self.components] or [_PLAIN]
        return "+".join(parts + [_CONTROL] * self.random_words)

    @property
    def reads_words(self) -> bool:
        return any(component.reads == "words" for component in self.components)

    @property
    def reads_distribution(self) -> bool:
        return any(component.reads == "distribution" for component in self.components)

    @property
    def terms(self) -> frozenset[str]:
        return frozenset(component.term for component in self.components)

    @property
    def control(self) -> Recipe | None:
        """The same recipe on random words; None where no words are read."""
        return Recipe(self.components, random_words=True) if self.reads_words else None

    @property
    def treated(self) -> Recipe:
        """The recipe that a control is the control of."""
        return Recipe(self.components)


def _combinations() -> Iterator[Recipe]:
    """Every meaningful recipe: components that share an architecture, each also with its control."""
    for count in range(len(COMPONENTS) + 1):
        for chosen in combinations(COMPONENTS, count):
            if chosen and not frozenset.intersection(*(component.architectures for component in chosen)):
                continue
            recipe = Recipe(chosen)
            yield recipe
            if recipe.control:
                yield recipe.control


RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _combinations()}


@dataclass(frozen=True)
class Arm:
    """One recipe of a job. `candidate` arms may be published; a control is the yardstick of `control_of`."""

    name: str
    candidate: bool
    control_of: str | None = None


def parse_recipe(name: str, *, param: str | None = None) -> Recipe:
    """Read a name whose parts may come in any order. Raises UnknownName, which lists the recipes."""
    parts = name.split("+")
    known = [component.name for component in COMPONENTS]
    ordered = sorted(parts, key=lambda part: known.index(part) if part in known else len(known))
    recipe = RECIPES.get("+".join(ordered))
    if recipe is None:
        raise UnknownName.among("recipe", name, RECIPES, param=param)
    return recipe


def fits(recipe: Recipe, architecture: Architecture, task: TaskSpec) -> str | None:
    """Why the recipe cannot train such a student on such a task; None when it can."""
    if architecture == "classifier" and task.kind != "classification":
        return f"a classifier answers with one of a fixed label set, which a {task.kind} task does not have"
    for component in recipe.components:
        if architecture not in component.architectures:
            return (
                f"{component.name} trains {' or '.join(sorted(component.architectures))} students, not {architecture}"
            )
        if component.closed and task.kind == "generation":
            return f"{component.name} needs candidate answers (a label set or choices), and a generation task has none"
    return None


def plan_arms(recipe: str | Sequence[str], architecture: Architecture, task: TaskSpec) -> list[Arm]:
    """The arms of a job: what was asked for, `finetune`, and the random-words control of each recipe that reads words.

    `auto` is every recipe that fits. Raises UnknownName or InvalidRequest (param `recipe` or `student`), which say what
    fits.
    """
    asked = [recipe] if isinstance(recipe, str) else list(recipe)
    if not asked:
        raise InvalidRequest(f"recipe is empty: name one, or say '{AUTO}'", param="recipe")
    wanted = [Recipe()]
    for name in asked:
        wanted += _fitting(architecture, task) if name == AUTO else [_checked(name, architecture, task)]
    treated = list(dict.fromkeys(one.treated for one in wanted))
    arms = []
    for one in treated:
        arms.append(Arm(one.name, candidate=True))
        if one.control:
            arms.append(Arm(one.control.name, candidate=False, control_of=one.name))
    return arms


def _fitting(architecture: Architecture, task: TaskSpec) -> list[Recipe]:
    candidates = [recipe for recipe in RECIPES.values() if not recipe.random_words]
    found = [recipe for recipe in candidates if fits(recipe, architecture, task) is None]
    if not any(recipe.components for recipe in found):
        problem = fits(Recipe(), architecture, task) or f"all that a {architecture} model can do is {_PLAIN}"
        raise InvalidRequest(
            f"no recipe learns from the teacher here: {problem}. A seq2seq student fits every task", param="student"
        )
    return found


def _checked(name: str, architecture: Architecture, task: TaskSpec) -> Recipe:
    recipe = parse_recipe(name, param="recipe")
    problem = fits(recipe, architecture, task)
    if problem:
        choices = ", ".join(one.name for one in RECIPES.values() if fits(one, architecture, task) is None) or "(none)"
        raise InvalidRequest(f"recipe '{name}' does not fit: {problem}. Recipes that do: {choices}", param="recipe")
    return recipe
