"""Which students may follow their teacher token by token on an open task, and when that is asked for tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.orchestrator.jobs import Arm, Job
from services.orchestrator.phases.annotate import attribution_request
from services.orchestrator.vocabularies import by_name
from understudy.models.lengths import shared_answers
from understudy.schemas import Example, TaskSpec
from understudy.testing import tiny_causal, tiny_classifier, tiny_seq2seq

SCRATCH = "scratch:t5-2x32"


def open_rows(count: int = 60) -> str:
    """JSON lines of an open task: every answer is another one."""
    rows = ({"input": f"{i} apples and {i % 7} pears", "output": f"{i} + {i % 7}"} for i in range(count))
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def recipes(bench: Any) -> Callable[..., set[str]]:
    """`recipes("cut:1", "scratch:t5-2x32")`: the arms of such a job on an open task, or the error that it ends with."""

    def validated(student: str, teacher: str, **spec: Any) -> Any:
        spec = {"recipe": "auto", "teacher": {"model": teacher, "finetune": True}, **spec}
        job = bench.work(
            bench.submit(model=student, training_file=bench.upload(open_rows()), spec=spec), until="preflight"
        )
        return job.error or {arm.name for arm in job.facts.arms}

    return validated


@pytest.mark.parametrize(
    ("student", "taught_by", "share"),
    [
        ("cut:1", SCRATCH, 1.0),
        ("cut:1x1v500", "google/flan-t5-small", 1.0),
        ("scratch:t5-1x16", SCRATCH, 1.0),
        ("scratch:gpt2-1x16", SCRATCH, 0.0),
        ("scratch:t5-1x16", "google/flan-t5-small", 0.0),
        ("google/flan-t5-small", SCRATCH, 0.0),
        ("cut:1@google/flan-t5-base", "google/flan-t5-small", None),
        ("google/flan-t5-small", "google/flan-t5-base", None),
    ],
)
def test_names_tell_whether_both_cut_answers_alike(
    bench: Any, student: str, taught_by: str, share: float | None
) -> None:
    job = bench.job(model=student, spec={"teacher": {"model": taught_by}})
    assert by_name(job, fewer_rows=False) == share


def test_new_tokenizers_are_alike_where_they_come_from_the_same_rows(recipes: Callable[..., Any]) -> None:
    assert {"logit_kd", "saliency+logit_kd"} <= recipes("scratch:t5-1x16", SCRATCH)
    assert "logit_kd" not in recipes("scratch:t5-1x16", SCRATCH, max_train_rows=30)
    assert "logit_kd" in recipes("cut:1", SCRATCH, max_train_rows=30)


def test_a_recipe_by_name_is_refused_before_any_cost(recipes: Callable[..., Any]) -> None:
    error = recipes("scratch:gpt2-1x16", SCRATCH, recipe="logit_kd")
    assert error.param == "method.distillation.recipe"
    assert "both tokenizers must be of one family" in error.message


@pytest.mark.usefixtures("fork_server")
def test_two_models_are_asked_where_names_do_not_tell(recipes: Callable[..., Any], tmp_path: Path) -> None:
    student, sister = (str(tiny_seq2seq(tmp_path / name, seed=seed)) for seed, name in enumerate(("one", "other")))
    assert "logit_kd" in recipes(student, sister)
    assert "logit_kd" not in recipes(student, str(tiny_causal(tmp_path / "causal")))
    assert "logit_kd" in recipes(student, "models/not-at-hand", recipe="logit_kd")


def test_answers_are_shared_where_each_is_written_in_the_same_tokens(tmp_path: Path) -> None:
    rows = [Example(id=str(i), input="a", output=answer) for i, answer in enumerate(("rain and rain", "2 + 3"))]
    one, other = (str(tiny_causal(tmp_path / name, seed=seed)) for seed, name in enumerate(("one", "other")))
    assert shared_answers(one, other, rows, TaskSpec()) == 1.0
    assert shared_answers(one, str(tiny_seq2seq(tmp_path / "t5")), rows, TaskSpec()) == 0.0
    assert shared_answers(one, str(tiny_classifier(tmp_path / "bert")), rows, TaskSpec()) == 0.0


@pytest.mark.parametrize(
    ("kind", "recipe", "asked"),
    [
        ("generation", "logit_kd", 7),
        ("generation", "saliency+logit_kd", 7),
        ("generation", "saliency", 0),
        ("choice", "logit_kd", 0),
    ],
)
def test_a_teacher_is_asked_for_tokens_where_a_recipe_learns_from_them(
    bench: Any, kind: Any, recipe: str, asked: int
) -> None:
    job: Job = bench.job(spec={"attribution": {"token_probabilities": 7}})
    job = job.with_facts(task=TaskSpec(kind=kind), arms=(Arm(name=recipe, candidate=True),))
    request = attribution_request(job, "teacher", [Example(id="1", input="a", output="b")])
    assert request.token_probabilities == asked
