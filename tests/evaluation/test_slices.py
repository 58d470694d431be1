"""Slices and confusions of a test split that can be counted by hand."""

from __future__ import annotations

import pytest

from understudy.evaluation.slices import confusion, slices
from understudy.schemas import Example, TaskSpec

TASK = TaskSpec(kind="classification", labels=("cat", "dog"))
ROWS = [
    ("a cat", "cat"),  # 2 words
    ("one dog", "dog"),
    ("it purrs softly", "cat"),  # 3 words
    ("it barks loudly", "dog"),
    ("a long text of a cat", "cat"),  # 6 words
    ("one long text without the animal", "dog"),
]
TEST = [Example(id=str(i), input=text, output=label) for i, (text, label) in enumerate(ROWS)]


def test_slices_count_what_they_say() -> None:
    right = {0: [True, True, True, False, False, False], 1: [True, True, True, True, False, False]}
    found = {(one.by, one.name): one for one in slices(TASK, TEST, {"student": right})}
    seen = {name: (one.rows, round(one.cells[0].accuracy.value, 3)) for (_, name), one in found.items()}
    assert seen == {
        "up to 2 words": (2, 1.0),
        "3 words": (2, 0.75),
        "more than 3 words": (2, 0.0),
        "cat": (3, 0.667),
        "dog": (3, 0.5),
        "answer in the input": (3, 0.667),
        "answer not in the input": (3, 0.5),
    }
    assert all(one.small for one in found.values())


def test_slices_of_one_kind_are_left_out() -> None:
    """Texts of the same length and answers that are never in the input: nothing sets the rows apart but the label."""
    rows = [Example(id=str(i), input=f"text {i}", output=label) for i, label in enumerate(["cat", "dog"] * 30)]
    found = slices(TASK, rows, {"student": {0: [True] * 60}})
    assert [(one.name, one.rows, one.small) for one in found] == [("cat", 30, False), ("dog", 30, False)]


def test_a_task_without_labels_has_no_slices_by_label() -> None:
    found = slices(TaskSpec(), TEST, {"student": {0: [True] * 6}})
    assert {one.by for one in found} == {"length", "answer"}


def test_confusion_counts_each_pair() -> None:
    found = confusion(TASK, TEST, ["cat", "cat", "dog", "dog", "dog", "dog"])
    assert found is not None
    assert found.counts == ((1, 2), (1, 2))
    assert [(one.expected, one.given, one.count, one.of) for one in found.top] == [
        ("cat", "dog", 2, 3),
        ("dog", "cat", 1, 3),
    ]
    assert confusion(TaskSpec(), TEST, ["x"] * 6) is None


@pytest.mark.parametrize(("labels", "matrix"), [(20, True), (21, False)])
def test_many_labels_show_their_commonest_confusions_only(labels: int, matrix: bool) -> None:
    task = TaskSpec(kind="classification", labels=tuple(f"label {i}" for i in range(labels)))
    rows = [Example(id=str(i), input="text", output=f"label {i}") for i in range(labels)]
    found = confusion(task, rows, ["label 0"] * labels)
    assert found is not None
    assert (found.counts is not None) == matrix
    assert len(found.top) == 10
