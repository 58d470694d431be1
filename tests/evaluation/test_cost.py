"""What distilling cost, from figures that can be added in the head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.evaluation.cost import cost
from understudy.evaluation.report import ArmRow, duration
from understudy.evaluation.spec import EvaluateSpec, TeacherFacts

TEACHER = TeacherFacts(
    model="teacher",
    finetuned=True,
    parameters=9000,
    predictions=Path("teacher.jsonl"),
    latency_ms=5.0,
    training_seconds=60,
    annotation_seconds=30,
    annotation_tokens=7000,
)


@pytest.fixture
def paid(make_spec: Callable[..., EvaluateSpec], make_arm: Callable[..., ArmRow]) -> Callable[..., Any]:
    def work(teacher: TeacherFacts | None, **student: Any) -> Any:
        plain = make_arm("finetune", 0.6, seconds=10)
        given = {"seconds": 20, "latency_ms": 1.0, "parameters": 3000}
        gate = make_arm("rationale_gate", 0.7, **(given | student))
        runs = [arm.model_copy(update={"tokens": 100}) for arm in make_spec(seeds=2).arms]
        return cost(runs, [plain, gate], gate, teacher)

    return work


def test_beyond_finetuning_is_the_teacher_its_words_and_the_longer_training(paid: Callable[..., Any]) -> None:
    found = paid(TEACHER)
    assert found.beyond == 60 + 30 + 20 - 10
    assert (found.latency_ratio, found.parameters_ratio) == (5, 3)
    assert found.repaid_after == 25_000  # 100 s at 4 ms each
    assert (found.runs, found.experiment, found.experiment_tokens) == (6, 9.0, 600)


def test_a_student_that_is_no_faster_repays_nothing(paid: Callable[..., Any]) -> None:
    assert paid(TEACHER, latency_ms=6.0).repaid_after is None


def test_what_was_not_told_is_not_guessed(paid: Callable[..., Any]) -> None:
    silent = TEACHER.model_copy(update={"training_seconds": None, "annotation_seconds": None, "latency_ms": None})
    found = paid(silent)
    assert (found.beyond, found.repaid_after, found.latency_ratio) == (None, None, None)
    assert paid(None).parameters_ratio is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (21.2, "21 s"),
        (59.7, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (-90, "−1 min 30 s"),
    ],
)
def test_durations_have_two_units_at_the_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text
