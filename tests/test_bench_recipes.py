"""What the recipes' benchmark asks of the evaluation: another report wherever other rows or models are behind it."""

from __future__ import annotations

import runpy
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.data.parquet import write_annotated, write_examples
from understudy.evaluation.spec import EvaluateSpec
from understudy.schemas import Example, TaskSpec
from understudy.training.recipes import Arm
from understudy.training.spec import TrainResult

ROOT = Path(__file__).parents[1]
ROWS = [Example(id=str(i), input=f"row {i}", output="good") for i in range(6)]


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., EvaluateSpec]:
    """`asked(teacher_share=0.5)`: the files on disk are as they are, and the models are the bytes in `student`."""
    for name in ("train", "validation", "test"):
        write_examples(tmp_path / f"{name}.parquet", ROWS)
    write_annotated(tmp_path / "annotated.parquet", [])
    (tmp_path / "teacher.jsonl").write_text("{}\n")
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "model.safetensors").write_bytes(b"weights")
    bench = runpy.run_path(str(ROOT / "benchmarks" / "bench_recipes.py"))
    figures: dict[str, Any] = {"validation_accuracy": 0.5, "validation_loss": 1.0, "validation_rows": 6, "best_step": 1}
    figures |= {"steps": 2, "batch_size": 2, "learning_rate": 0.1, "seconds": 1.0, "parameters": 9, "device": "cpu"}
    result = TrainResult(model=tmp_path / "student", instances=40, **figures)

    def make(teacher_share: float = 0.0) -> EvaluateSpec:
        given = {
            "name": "n",
            "teacher": "teacher",
            "unlabelled": 0,
            "top_k": 5,
            "method": "saliency",
            "words": "teacher",
        }
        options = Namespace(**given, teacher_share=teacher_share)
        arms = (Arm(name="finetune", candidate=True),)
        made = bench["Bench"](tmp_path, TaskSpec(), result, "scratch:bert-1x16", arms, options)
        spec: EvaluateSpec = bench["_evaluation"](made, [((arms[0], 0), result)], 4)
        return spec

    return make


def identity(spec: EvaluateSpec) -> tuple[str, list[str]]:
    """What tells one report from another."""
    return spec.job_id, [one.artifact for one in spec.arms]


def test_a_report_is_known_by_its_rows_and_by_its_models_weights(
    asked: Callable[..., EvaluateSpec], tmp_path: Path
) -> None:
    first = identity(asked())
    assert identity(asked()) == first, "what is finished is not done again"
    write_examples(tmp_path / "test.parquet", ROWS[::-1])  # as many, and others
    second = identity(asked())
    assert second[0] != first[0]
    (tmp_path / "teacher.jsonl").write_text('{"id": 1}\n')
    third = identity(asked())
    assert third[0] not in (first[0], second[0])
    (tmp_path / "student" / "model.safetensors").write_bytes(b"others")
    assert identity(asked())[1] != third[1]


def test_a_teacher_with_a_share_of_its_own_learned_from_other_rows(asked: Callable[..., EvaluateSpec]) -> None:
    whole, share = asked().teacher, asked(teacher_share=0.5).teacher
    assert whole is not None
    assert share is not None
    assert (whole.other_rows, share.other_rows) == (False, True)
