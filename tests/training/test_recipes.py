"""Recipe names, which students they fit, and which arms a job runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from understudy.errors import InvalidRequest, UnknownName
from understudy.schemas import TaskSpec
from understudy.training.recipes import RECIPES, Arm, parse_recipe, plan_arms

LABELS = TaskSpec(kind="classification", labels=("a", "b"))
CHOICE = TaskSpec(kind="choice")
OPEN = TaskSpec()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_parses_to_its_own_name(name: str) -> None:
    assert parse_recipe(name).name == name


def test_parts_may_come_in_any_order() -> None:
    assert parse_recipe("random_rationale+logit_kd+rationale_gate").name == "rationale_gate+logit_kd+random_rationale"


@pytest.mark.parametrize(
    "name", ["", "rationale_gates", "finetune+logit_kd", "logit_kd+random_rationale", "saliency+rationale_gate", "a+a"]
)
def test_what_is_no_recipe_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(UnknownName, match="rationale_gate") as caught:
        parse_recipe(name, param="recipe")
    assert caught.value.param == "recipe"


def test_auto_runs_all_that_fit_a_classifier_with_their_controls() -> None:
    assert plan_arms("auto", "classifier", LABELS) == [
        Arm("finetune", candidate=True),
        Arm("rationale_gate", candidate=True),
        Arm("rationale_gate+random_rationale", candidate=False, control_of="rationale_gate"),
        Arm("logit_kd", candidate=True),
        Arm("rationale_gate+logit_kd", candidate=True),
        Arm("rationale_gate+logit_kd+random_rationale", candidate=False, control_of="rationale_gate+logit_kd"),
    ]


def test_open_answers_have_no_distribution_to_follow() -> None:
    assert [arm.name for arm in plan_arms("auto", "seq2seq", OPEN)] == [
        "finetune",
        "saliency",
        "saliency+random_rationale",
    ]
    with pytest.raises(InvalidRequest, match="candidate answers"):
        plan_arms("logit_kd", "seq2seq", OPEN)


def test_choices_can_be_distilled_by_a_seq2seq_student() -> None:
    assert Arm("logit_kd", candidate=True) in plan_arms("auto", "seq2seq", CHOICE)


def test_finetune_and_the_control_are_added_to_what_was_asked() -> None:
    assert [arm.name for arm in plan_arms("saliency", "seq2seq", OPEN)] == [
        "finetune",
        "saliency",
        "saliency+random_rationale",
    ]


def test_asking_twice_or_for_a_control_adds_no_arm() -> None:
    once = plan_arms("rationale_gate", "classifier", LABELS)
    asked = ["rationale_gate", "finetune", "rationale_gate", "rationale_gate+random_rationale"]
    assert plan_arms(asked, "classifier", LABELS) == once
    assert plan_arms("rationale_gate+random_rationale", "classifier", LABELS) == once


@pytest.mark.parametrize(
    ("recipe", "architecture", "task", "says"),
    [
        ("saliency", "classifier", LABELS, "saliency trains seq2seq students, not classifier.*rationale_gate"),
        ("rationale_gate", "seq2seq", LABELS, "rationale_gate trains classifier students"),
        ("finetune", "classifier", OPEN, "fixed label set"),
        ("auto", "classifier", CHOICE, "fixed label set"),
        ("auto", "causal", LABELS, "all that a causal model can do is finetune. A seq2seq student fits"),
        ([], "classifier", LABELS, "empty"),
    ],
)
def test_a_recipe_that_does_not_fit_says_why_and_what_would(
    recipe: str | list[str], architecture: str, task: TaskSpec, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        plan_arms(recipe, architecture, task)
    assert caught.value.param == ("student" if recipe == "auto" else "recipe")


def test_planning_a_job_imports_no_torch() -> None:
    code = "import sys, understudy.training.recipes, understudy.training.spec; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
