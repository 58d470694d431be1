"""Recipe names, which students they fit, and which arms a job runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from understudy.errors import InvalidRequest, UnknownName
from understudy.schemas import TaskSpec
from understudy.training.recipes import RECIPES, Arm, Offer, parse_recipe, plan_arms

LABELS = TaskSpec(kind="classification", labels=("a", "b"))
CHOICE = TaskSpec(kind="choice")
OPEN = TaskSpec()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_parses_to_its_own_name(name: str) -> None:
    assert parse_recipe(name).name == name


def test_parts_may_come_in_any_order() -> None:
    assert parse_recipe("random_rationale+logit_kd+rationale_gate").name == "rationale_gate+logit_kd+random_rationale"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "rationale_gates",
        "finetune+logit_kd",
        "logit_kd+random_rationale",
        "saliency+rationale_gate",
        "a+a",
        "logit_kd+logit_kd",
        "rationale_gate+shuffled_rationale",
        "saliency+random_rationale+shuffled_rationale",
    ],
)
def test_what_is_no_recipe_is_refused_with_the_parts(name: str) -> None:
    with pytest.raises(UnknownName, match=r"rationale_gate.*any of logit_kd.*random_rationale") as caught:
        parse_recipe(name, param="recipe")
    assert caught.value.param == "recipe"


def test_a_typing_mistake_is_told_what_was_meant() -> None:
    with pytest.raises(UnknownName, match=r"Did you mean 'rationale_gate\+logit_kd'"):
        parse_recipe("rationale_gte+logit_kd")


def candidates(architecture: str, task: TaskSpec, *offers: Offer) -> list[str]:
    return [arm.name for arm in plan_arms("auto", architecture, task, offers) if arm.candidate]


def test_auto_is_all_that_fits_alone_and_with_the_teachers_distribution() -> None:
    alone = ["saliency", "rationale_input", "rationale_gate", "attribution_alignment"]
    assert candidates("classifier", LABELS) == ["finetune", *alone, "logit_kd", *(f"{one}+logit_kd" for one in alone)]


def test_what_the_data_offer_adds_recipes() -> None:
    assert "step_by_step" in candidates("seq2seq", OPEN, "rationale")
    assert "step_by_step" not in candidates("seq2seq", OPEN)
    assert "rationale_gate+logit_kd+teacher_labels" in candidates("classifier", LABELS, "unlabelled")
    assert not any("teacher_labels" in name for name in candidates("classifier", LABELS))


def test_every_candidate_that_reads_words_has_its_control_on_random_words() -> None:
    arms = plan_arms("auto", "seq2seq", LABELS, ["rationale", "unlabelled"])
    controls = {arm.control_of: arm.name for arm in arms if not arm.candidate}
    for arm in arms:
        if arm.candidate:
            reads = parse_recipe(arm.name).reads("words", "scores")
            assert controls.get(arm.name) == (f"{arm.name}+random_rationale" if reads else None)


def test_open_answers_are_followed_token_by_token_where_the_tokens_are_the_teachers() -> None:
    assert not any("logit_kd" in name for name in candidates("seq2seq", OPEN))
    with pytest.raises(InvalidRequest, match="both tokenizers must be of one family"):
        plan_arms("logit_kd", "seq2seq", OPEN)
    offered = candidates("causal", OPEN, "tokens")
    assert {"logit_kd", "saliency+logit_kd"} <= set(offered)
    assert "label_then_rationale" in offered
    assert "label_then_rationale+logit_kd" not in offered
    with pytest.raises(InvalidRequest, match="rationale_then_label writes it among other words"):
        plan_arms("rationale_then_label+logit_kd", "seq2seq", OPEN, ["tokens"])


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


def test_the_order_of_the_words_has_a_control_on_request() -> None:
    assert [arm for arm in plan_arms("saliency+shuffled_rationale", "seq2seq", OPEN) if not arm.candidate] == [
        Arm("saliency+random_rationale", candidate=False, control_of="saliency"),
        Arm("saliency+shuffled_rationale", candidate=False, control_of="saliency"),
    ]


def test_what_the_reasons_add_is_measured_against_the_rest() -> None:
    assert parse_recipe("rationale_gate+logit_kd").without_rationale.name == "logit_kd"
    assert parse_recipe("saliency").without_rationale.name == "finetune"


@pytest.mark.parametrize(
    ("recipe", "architecture", "task", "says"),
    [
        (
            "label_then_rationale",
            "classifier",
            LABELS,
            "trains causal or seq2seq students, not classifier.*rationale_gate",
        ),
        ("rationale_gate", "causal", LABELS, "rationale_gate trains classifier or seq2seq students"),
        ("saliency+shuffled_rationale", "classifier", LABELS, "no order to shuffle"),
        ("step_by_step", "seq2seq", LABELS, "free-text 'rationale'"),
        ("teacher_labels", "seq2seq", LABELS, "unlabelled_file"),
        ("finetune", "classifier", OPEN, "fixed label set"),
        ("auto", "classifier", CHOICE, "fixed label set"),
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
