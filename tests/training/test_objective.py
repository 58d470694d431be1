"""The objective on real tiny models: what may change a step's loss, and what must not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from understudy.data.parquet import AnnotatedExample
from understudy.models.base import Adapter
from understudy.models.load import load_adapter
from understudy.schemas import TaskSpec
from understudy.testing import tiny_causal, tiny_classifier, tiny_seq2seq
from understudy.training.collate import Collator
from understudy.training.objective import TEACHER_SHARE, TEMPERATURE, Objective
from understudy.training.recipes import parse_recipe
from understudy.training.views import Instance, Row, build_instances, label_template

TASK = TaskSpec(kind="classification", labels=("bad", "good"))
ARMS = [
    ("classifier", "finetune"),
    ("classifier", "rationale_gate+logit_kd"),
    ("seq2seq", "saliency+logit_kd"),
    ("causal", "finetune"),
]
_MAKERS: dict[str, Callable[..., Path]] = {
    "classifier": lambda folder: tiny_classifier(folder, labels=("bad", "good"), pooling="gate"),
    "seq2seq": tiny_seq2seq,
    "causal": tiny_causal,
}


class Bench:
    """A model in float64, its rows as instances, and the losses of any of them."""

    def __init__(self, folder: Path, architecture: str, recipe: str, rows: Sequence[AnnotatedExample]) -> None:
        self.recipe = parse_recipe(recipe)
        task = label_template(self.recipe, TASK)
        self.adapter: Adapter = load_adapter(str(_MAKERS[architecture](folder)), task=task, device="cpu")
        self.model: Any = self.adapter.model.double()
        given = [Row(row.example, row.attribution) for row in rows]
        self.instances = build_instances(self.adapter, given, self.recipe, seed=0, top_k=2)
        shift = self.model.prepare_decoder_input_ids_from_labels if architecture == "seq2seq" else None
        self.collate = Collator(architecture, self.adapter.neutral_id, shift)

    def losses(self, instances: Sequence[Instance], weight: float = 0.7) -> torch.Tensor:
        return Objective(self.recipe, weight)(self.model, self.collate(instances))


@pytest.fixture(params=ARMS, ids=lambda arm: f"{arm[0]}-{arm[1]}")
def bench(request: pytest.FixtureRequest, tmp_path: Path, rows: list[AnnotatedExample]) -> Bench:
    silent = rows[2].attribution.model_copy(update={"rationale": (), "probabilities": None})
    changed = [*rows[:2], rows[2].model_copy(update={"attribution": silent}), *rows[3:]]
    return Bench(tmp_path, *request.param, changed)


def test_an_examples_loss_does_not_depend_on_its_company(bench: Bench) -> None:
    together = bench.losses(bench.instances)
    alone = torch.cat([bench.losses([one]) for one in bench.instances])
    assert_close(together, alone, rtol=1e-6, atol=1e-8)


def test_the_order_of_a_batch_does_not_change_a_loss(bench: Bench) -> None:
    assert_close(bench.losses(bench.instances[::-1]), bench.losses(bench.instances).flip(0), rtol=1e-6, atol=1e-8)


def test_a_row_the_teacher_said_nothing_about_costs_what_finetuning_it_costs(bench: Bench) -> None:
    plain = Objective(parse_recipe("finetune"), 1.0)(bench.model, bench.collate(bench.instances))
    found = bench.losses(bench.instances)
    assert_close(found[2], plain[2], rtol=1e-6, atol=1e-8)
    assert torch.isfinite(found).all()
    if bench.recipe.components:
        assert (found[[0, 1]] != plain[[0, 1]]).all()


def test_a_batch_of_nothing_but_silent_rows_is_trained_on_its_labels(bench: Bench) -> None:
    assert torch.isfinite(bench.losses([bench.instances[2]])).all()


@pytest.mark.parametrize(("architecture", "recipe"), [("classifier", "rationale_gate"), ("seq2seq", "saliency")])
def test_the_rationales_loss_is_added_with_its_weight(
    tmp_path: Path, rows: list[AnnotatedExample], architecture: str, recipe: str
) -> None:
    bench = Bench(tmp_path, architecture, recipe, rows)
    none, one, two = (bench.losses(bench.instances, weight) for weight in (0.0, 1.0, 2.0))
    assert_close(two - none, 2 * (one - none))
    plain = Objective(parse_recipe("finetune"), 1.0)(bench.model, bench.collate(bench.instances))
    assert_close(none, plain)
    assert (one > none).all()


def test_a_decoders_loss_is_that_of_its_own_model(tmp_path: Path, rows: list[AnnotatedExample]) -> None:
    bench = Bench(tmp_path, "causal", "finetune", rows)
    for one, found in zip(bench.instances, bench.losses(bench.instances), strict=True):
        expected = bench.model(input_ids=torch.tensor([one.label.ids]), labels=torch.tensor([one.label.labels])).loss
        assert_close(found, expected, check_dtype=False)


def test_a_seq2seq_loss_is_that_of_its_own_model(tmp_path: Path, rows: list[AnnotatedExample]) -> None:
    bench = Bench(tmp_path, "seq2seq", "finetune", rows)
    for one, found in zip(bench.instances, bench.losses(bench.instances), strict=True):
        expected = bench.model(input_ids=torch.tensor([one.label.ids]), labels=torch.tensor([one.label.labels])).loss
        assert_close(found, expected, check_dtype=False)


def test_a_writing_student_is_pulled_to_the_teacher_by_its_candidates_likelihoods(
    tmp_path: Path, rows: list[AnnotatedExample]
) -> None:
    bench = Bench(tmp_path, "seq2seq", "logit_kd", rows)
    texts = [row.example.input for row in rows]
    scores = torch.tensor(bench.adapter.log_likelihoods(texts, [TASK.labels] * len(texts)), dtype=torch.float64)
    teacher = torch.tensor([[row.attribution.probabilities[name] for name in TASK.labels] for row in rows]).double()  # type: ignore[index]
    softened = (teacher.log() / TEMPERATURE).softmax(-1)
    student = (scores / TEMPERATURE).log_softmax(-1)
    divergence = TEMPERATURE**2 * (softened * (softened.log() - student)).sum(-1)
    label = Objective(parse_recipe("finetune"), 1.0)(bench.model, bench.collate(bench.instances))
    by_hand = (1 - TEACHER_SHARE) * label + TEACHER_SHARE * divergence
    assert_close(bench.losses(bench.instances), by_hand, rtol=1e-5, atol=1e-6)
