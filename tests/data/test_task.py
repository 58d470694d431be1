"""The task that the outputs of a training split describe."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from understudy.data.task import infer_task, keep_known_labels
from understudy.errors import InvalidRequest
from understudy.schemas import Example, TaskSpec


def rows(outputs: Sequence[str], choices: tuple[str, ...] | None = None) -> list[Example]:
    return [Example(id=str(i), input=f"t{i}", output=o, choices=choices) for i, o in enumerate(outputs)]


def test_few_outputs_that_repeat_are_classes_in_sorted_order() -> None:
    task = infer_task(rows(["no", "yes"] * 5), "say: {input}")
    assert task == TaskSpec(kind="classification", labels=("no", "yes"), template="say: {input}")


def test_choices_on_every_row_are_a_choice_task() -> None:
    assert infer_task(rows(["a", "b"] * 10, choices=("a", "b"))).kind == "choice"


@pytest.mark.parametrize(
    "outputs",
    [
        [f"equation {i}" for i in range(50)],
        [str(i) for i in range(101)] * 5,
        ["unknown"] * 80 + [str(i) for i in range(15)],
        ["a", "b", "c"] * 4,
    ],
    ids=["distinct", "too-many", "one-common", "too-few-each"],
)
def test_outputs_that_are_no_classes_are_generated(outputs: list[str]) -> None:
    assert infer_task(rows(outputs)) == TaskSpec(kind="generation")


def test_one_misspelt_label_does_not_turn_classes_into_free_text() -> None:
    assert infer_task(rows(["no", "yes"] * 50 + ["yess"])).labels == ("no", "yes", "yess")


@pytest.mark.parametrize("outputs", [["yes"] * 10, ["yes"], []])
def test_one_class_only_is_nothing_to_learn(outputs: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="at least two different outputs"):
        infer_task(rows(outputs))


def test_choices_on_some_rows_only_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="2 of 5 training rows have choices"):
        infer_task(rows(["a", "b"], choices=("a", "b")) + rows(["a", "b", "c"]))


def test_rows_with_a_label_that_training_never_saw_are_set_aside() -> None:
    task = TaskSpec(kind="classification", labels=("no", "yes"))
    kept, rejected = keep_known_labels(task, rows(["yes", "maybe", "no"]), "test")
    assert [row.output for row in kept] == ["yes", "no"]
    assert [(r.split, r.line, r.reason) for r in rejected] == [
        ("test", 2, "output 'maybe' is not one of the labels: no, yes")
    ]


def test_open_tasks_know_no_wrong_output() -> None:
    assert keep_known_labels(TaskSpec(), rows(["a"]), "test") == (rows(["a"]), [])
