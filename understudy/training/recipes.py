"""Recipes: which of the teacher's signals a student learns from, as declarations. Imports no torch.

A recipe's name is its components joined by `+` in canonical order. Every recipe trains on the label; a component adds
a loss term to that, changes what the student writes, or adds rows. `finetune` is the recipe of no component. At most
one component is about the teacher's reasons; the others go with any. The control `random_rationale` swaps the teacher's
words for as many random words of the same input, and shows whether the *choice* of words helped; `shuffled_rationale`
keeps the words and shows whether their *order* did.

Adding a recipe is one entry in COMPONENTS and, for a new kind of loss, one entry in `objective.TERMS`. Knows nothing of
how a loss is computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import combinations
from typing import Literal, get_args

from understudy.errors import InvalidRequest, UnknownName
from understudy.models.forms import Form
from understudy.schemas import TaskSpec

__all__ = [
    "AUTO",
    "COMPONENTS",
    "RECIPES",
    "Arm",
    "Component",
    "Offer",
    "Recipe",
    "fits",
    "parse_recipe",
    "plan_arms",
]

AUTO = "auto"
_PLAIN = "finetune"

Architecture = str  # "seq2seq", "causal" or "classifier", as `models.load.architecture` answers
Term = Literal["explanation", "tags", "gate", "input", "alignment", "distribution"]
Signal = Literal["words", "scores", "text", "distribution", "labels"]
Control = Literal["random_rationale", "shuffled_rationale"]
Offer = Literal["rationale", "unlabelled", "tokens"]
"""What there may be beside inputs and outputs: free-text rationales, rows without an output, and the teacher's
probabilities of tokens, where the student cuts an answer into the same ones."""


@dataclass(frozen=True, eq=False)
class Component:
    """One thing that a student learns beside the row's own label.

    `terms` names, for each architecture that it trains, the loss term in the trainer; None where it has none of its
    own. `reads` is what it needs: the teacher's words, all its words' scores, its distribution over the candidate
    answers (on an open task over the tokens at each place of the answer), its labels of rows that have none, or the
    row's free-text rationale. `ordered`: the words are read or written one after the other, so that their order could
    matter.
    """

    name: str
    reads: Signal
    terms: Mapping[Architecture, Term | None]
    says: str
    form: Form = "label"
    ordered: bool = False

    @property
    def is_rationale(self) -> bool:
        return self.reads in ("words", "scores", "text")


_WRITERS: tuple[Architecture, ...] = ("seq2seq", "causal")
_ALL: tuple[Architecture, ...] = ("seq2seq", "causal", "classifier")

COMPONENTS: tuple[Component, ...] = (
    Component(
        name="saliency",
        reads="words",
        terms={"seq2seq": "explanation", "causal": "explanation", "classifier": "tags"},
        ordered=True,
        says="a second task: the student writes the teacher's words (arXiv 2409.12586); a classifier marks them",
    ),
    Component(
        name="label_then_rationale",
        reads="words",
        terms=dict.fromkeys(_WRITERS),
        form="label_then_rationale",
        ordered=True,
        says="the student writes the label and then the teacher's words (arXiv 2406.14511)",
    ),
    Component(
        name="rationale_then_label",
        reads="words",
        terms=dict.fromkeys(_WRITERS),
        form="rationale_then_label",
        ordered=True,
        says="the student writes the teacher's words and then the label, as a chain of thought",
    ),
    Component(
        name="rationale_input",
        reads="words",
        terms=dict.fromkeys(_ALL, "input"),
        ordered=True,
        says="the teacher's words alone are one more input with the same label",
    ),
    Component(
        name="rationale_gate",
        reads="words",
        terms={"classifier": "gate", "seq2seq": "gate"},
        says="a gate on each token learns the teacher's words, and the label is read through it",
    ),
    Component(
        name="step_by_step",
        reads="text",
        terms=dict.fromkeys(_WRITERS, "explanation"),
        says="a second task: the student writes the row's free-text rationale (arXiv 2305.02301)",
    ),
    Component(
        name="attribution_alignment",
        reads="scores",
        terms=dict.fromkeys(_ALL, "alignment"),
        says="the student's own saliency map is pulled toward the teacher's (AD-KD, arXiv 2305.10010)",
    ),
    Component(
        name="logit_kd",
        reads="distribution",
        terms=dict.fromkeys(_ALL, "distribution"),
        says="the student follows the teacher's probabilities of all candidate answers (Hinton et al. 2015), on an "
        "open task of the tokens at each place of the answer (Kim and Rush 2016)",
    ),
    Component(
        name="teacher_labels",
        reads="labels",
        terms=dict.fromkeys(_ALL),
        says="rows without an output are trained on with the label that the teacher gave them",
    ),
)


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe; `variant` makes it a control."""

    components: tuple[Component, ...] = ()
    variant: Control | None = None

    @property
    def name(self) -> str:
        parts = [component.name for component in self.components] or [_PLAIN]
        return "+".join([*parts, *filter(None, [self.variant])])

    def reads(self, *signals: Signal) -> bool:
        return any(component.reads in signals for component in self.components)

    def terms(self, architecture: Architecture) -> frozenset[Term]:
        """The loss terms beside the label's that train such a student."""
        return frozenset(term for one in self.components if (term := one.terms.get(architecture)))

    @property
    def rationale(self) -> Component | None:
        """The component that is about the teacher's reasons."""
        return next((component for component in self.components if component.is_rationale), None)

    @property
    def form(self) -> Form:
        return self.rationale.form if self.rationale else "label"

    @property
    def random_words(self) -> bool:
        return self.variant == "random_rationale"

    @property
    def control(self) -> Recipe | None:
        """The same recipe on random words; None where the teacher's choice of words plays no part."""
        return replace(self, variant="random_rationale") if self.reads("words", "scores") else None

    @property
    def treated(self) -> Recipe:
        """The recipe that a control is the control of."""
        return Recipe(self.components)

    @property
    def without_rationale(self) -> Recipe:
        """What remains without the reasons: the yardstick of what they add to the rest of the recipe."""
        return Recipe(tuple(component for component in self.components if not component.is_rationale))


def _combinations() -> Iterator[Recipe]:
    """Every meaningful recipe: at most one component about reasons, an architecture that fits all, each control."""
    for count in range(len(COMPONENTS) + 1):
        for chosen in combinations(COMPONENTS, count):
            if sum(one.is_rationale for one in chosen) > 1:
                continue
            if chosen and not set.intersection(*(set(one.terms) for one in chosen)):
                continue
            recipe = Recipe(chosen)
            yield recipe
            if recipe.control:
                yield recipe.control
            if recipe.rationale and recipe.rationale.ordered:
                yield replace(recipe, variant="shuffled_rationale")


RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _combinations()}


@dataclass(frozen=True)
class Arm:
    """One recipe of a job. `candidate` arms may be published; a control is the yardstick of `control_of`."""

    name: str
    candidate: bool
    control_of: str | None = None


def parse_recipe(name: str, *, param: str | None = None) -> Recipe:
    """Read a name whose parts may come in any order. Raises UnknownName, which lists the parts that go together."""
    parts = name.split("+")
    known = [component.name for component in COMPONENTS]
    ordered = sorted(parts, key=lambda part: known.index(part) if part in known else len(known))
    recipe = RECIPES.get("+".join(ordered))
    if recipe is None:
        near = get_close_matches(name, RECIPES, n=1)
        reasons = ", ".join(one.name for one in COMPONENTS if one.is_rationale)
        others = ", ".join(one.name for one in COMPONENTS if not one.is_rationale)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UnknownName(
            f"unknown recipe '{name}': write {_PLAIN}, or join with '+' one of {reasons}; any of {others}; and for a "
            f"control one of {', '.join(get_args(Control))}.{hint}",
            param=param,
        )
    return recipe


def fits(recipe: Recipe, architecture: Architecture, task: TaskSpec, offers: Collection[Offer] = ()) -> str | None:
    """Why the recipe cannot train such a student on such a task with what the data offer; None when it can."""
    if architecture == "classifier" and task.kind != "classification":
        return f"a classifier answers with one of a fixed label set, which a {task.kind} task does not have"
    for component in recipe.components:
        if architecture not in component.terms:
            return f"{component.name} trains {' or '.join(sorted(component.terms))} students, not {architecture}"
        if component.reads == "distribution" and task.kind == "generation":
            problem = _not_by_token(recipe, offers)
            if problem:
                return f"{component.name} {problem}"
        if component.reads == "text" and "rationale" not in offers:
            return f"{component.name} needs rows with a free-text 'rationale', and the training rows have none"
        if component.reads == "labels" and "unlabelled" not in offers:
            return f"{component.name} needs rows without an output, and there is no unlabelled_file"
    if recipe.variant == "shuffled_rationale" and architecture == "classifier" and "tags" in recipe.terms(architecture):
        return "a classifier marks words where they stand, and there is no order to shuffle"
    return None


def _not_by_token(recipe: Recipe, offers: Collection[Offer]) -> str | None:
    """Why the teacher's probabilities of an open answer's tokens cannot be followed; None where they can."""
    if recipe.form != "label":
        assert recipe.rationale is not None
        return (
            "on an open task follows the tokens of the answer alone, and "
            f"{recipe.rationale.name} writes it among other words"
        )
    if "tokens" not in offers:
        return (
            "on an open task follows the teacher's tokens, and the student does not cut the answers into the same "
            "ones: both tokenizers must be of one family, as those of a student cut from the teacher are"
        )
    return None


def plan_arms(
    recipe: str | Sequence[str], architecture: Architecture, task: TaskSpec, offers: Collection[Offer] = ()
) -> list[Arm]:
    """The arms of a job: what was asked for, `finetune`, and the random-words control of each recipe that has one.

    `auto` is every recipe that fits. Raises UnknownName or InvalidRequest (param `recipe` or `student`), which say what
    fits.
    """
    asked = [recipe] if isinstance(recipe, str) else list(recipe)
    if not asked:
        raise InvalidRequest(f"recipe is empty: name one, or say '{AUTO}'", param="recipe")
    wanted = [Recipe()]
    for name in asked:
        if name == AUTO:
            wanted += _fitting(architecture, task, offers)
        else:
            wanted.append(_checked(name, architecture, task, offers))
    controls = [one for one in wanted if one.variant]
    arms = []
    for one in dict.fromkeys(one.treated for one in wanted):
        arms.append(Arm(one.name, candidate=True))
        beside = [one.control, *(control for control in controls if control.treated == one)]
        names = dict.fromkeys(control.name for control in beside if control)
        arms += [Arm(name, candidate=False, control_of=one.name) for name in names]
    return arms


def _fitting(architecture: Architecture, task: TaskSpec, offers: Collection[Offer]) -> list[Recipe]:
    candidates = [recipe for recipe in RECIPES.values() if not recipe.variant]
    found = [recipe for recipe in candidates if fits(recipe, architecture, task, offers) is None]
    if not any(recipe.components for recipe in found):
        problem = fits(Recipe(), architecture, task) or f"all that a {architecture} model can do is {_PLAIN}"
        raise InvalidRequest(
            f"no recipe learns from the teacher here: {problem}. A seq2seq student fits every task", param="student"
        )
    return found


def _checked(name: str, architecture: Architecture, task: TaskSpec, offers: Collection[Offer]) -> Recipe:
    recipe = parse_recipe(name, param="recipe")
    problem = fits(recipe, architecture, task, offers)
    if problem:
        fitting = [one for one in RECIPES.values() if not one.variant and fits(one, architecture, task, offers) is None]
        choices = ", ".join(one.name for one in fitting) or "(none)"
        raise InvalidRequest(f"recipe '{name}' does not fit: {problem}. Recipes that do: {choices}", param="recipe")
    return recipe
