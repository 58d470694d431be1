"""`logit_kd` on open tasks: a student that follows its teacher token by token along the right answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from understudy.attribution.attribute import attribute
from understudy.data.parquet import AnnotatedExample
from understudy.errors import InvalidRequest
from understudy.models.base import Adapter
from understudy.models.load import load_adapter
from understudy.schemas import AttributionExample, AttributionOptions, Example, Hyperparameters, TaskSpec
from understudy.testing import tiny_causal, tiny_seq2seq
from understudy.training.collate import Collator
from understudy.training.losses import token_distillation
from understudy.training.objective import TEACHER_SHARE, TEMPERATURE, Objective
from understudy.training.recipes import parse_recipe
from understudy.training.run import train
from understudy.training.spec import TrainSpec
from understudy.training.views import Instance, Row, build_instances

TEXTS = (
    ("two and three", "2 + 3"),
    ("the rain of two hours", "rain and rain, and one joke"),
    ("one", "1"),
    ("the first half and the second", "half + half"),
)
MAKERS: dict[str, Callable[..., Path]] = {"seq2seq": tiny_seq2seq, "causal": tiny_causal}


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


IDS = torch.tensor([[[1, 2], [3, 0], [0, 0]], [[6, 5], [4, 3], [2, 1]]])
MASK = torch.tensor([[[1, 1], [1, 0], [0, 0]], [[1, 1], [1, 1], [1, 1]]])
TEACHER = torch.tensor(
    [[[0.6, 0.2], [0.9, 0.5], [0.5, 0.5]], [[0.5, 0.1], [0.8, 0.1], [0.4, 0.3]]], dtype=torch.float64
)


def test_the_loss_of_tokens_is_the_mean_divergence_at_a_texts_own_places(logits: torch.Tensor) -> None:
    def divergence(row: int, place: int) -> torch.Tensor:
        softened = TEACHER[row, place] ** 0.5 / (TEACHER[row, place] ** 0.5).sum()
        student = (logits[row, place, IDS[row, place]] / 2).log_softmax(-1)
        return 4 * (softened * (softened.log() - student)).sum()

    found = token_distillation(logits, IDS, TEACHER, MASK, 2.0)
    one_token_says_nothing = torch.tensor(0.0, dtype=torch.float64)
    assert_close(found[0], (divergence(0, 0) + one_token_says_nothing) / 2)
    assert_close(found[1], torch.stack([divergence(1, place) for place in range(3)]).mean())


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_a_student_that_agrees_on_the_known_tokens_costs_nothing(logits: torch.Tensor, temperature: float) -> None:
    known = logits.softmax(-1).gather(-1, IDS)
    losses = token_distillation(logits, IDS, known, MASK, temperature)
    assert_close(losses, torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_padding_changes_no_loss_of_tokens_and_poisons_no_gradient(logits: torch.Tensor) -> None:
    wider = torch.cat([logits, torch.full((2, 2, 7), 1e4, dtype=torch.float64)], 1).requires_grad_()
    more = torch.zeros(2, 2, 2)
    found = token_distillation(
        wider,
        torch.cat([IDS, more.long()], 1),
        torch.cat([TEACHER, more + 0.5], 1),
        torch.cat([MASK, more.long()], 1),
        2.0,
    )
    assert_close(found, token_distillation(logits, IDS, TEACHER, MASK, 2.0))
    found.sum().backward()
    assert wider.grad is not None
    assert torch.isfinite(wider.grad).all()
    assert wider.grad[:, 3:].abs().max() == 0


def test_a_text_of_which_nothing_is_known_costs_nothing(logits: torch.Tensor) -> None:
    assert token_distillation(logits, IDS, TEACHER, torch.zeros_like(MASK), 2.0).tolist() == [0, 0]


class Pair:
    """A teacher, a student of its family, the rows as the teacher explained them, and the student's losses of them."""

    def __init__(self, folder: Path, architecture: str, most: int = 8, recipe: str = "logit_kd") -> None:
        make = MAKERS[architecture]
        self.recipe = parse_recipe(recipe)
        self.teacher, self.student = (
            load_adapter(str(make(folder / name, seed=seed)), device="cpu")
            for seed, name in enumerate(("teacher", "student"))
        )
        self.rows = annotated(self.teacher, most)
        self.model: Any = self.student.model.double()
        self.instances = self.read(self.rows)
        self.collate = Collator.of(self.student)

    def read(self, rows: list[AnnotatedExample]) -> list[Instance]:
        given = [Row(row.example, row.attribution) for row in rows]
        return build_instances(self.student, given, self.recipe, seed=0, top_k=2)

    def losses(self, instances: list[Instance], recipe: str | None = None) -> torch.Tensor:
        chosen = parse_recipe(recipe) if recipe else self.recipe
        return Objective(chosen, self.student.architecture, 0.7)(self.model, self.collate(instances))


def annotated(teacher: Adapter, most: int) -> list[AnnotatedExample]:
    examples = [Example(id=str(i), input=text, output=answer) for i, (text, answer) in enumerate(TEXTS)]
    asked = [AttributionExample(input=one.input, output=one.output) for one in examples]
    found = attribute(teacher, asked, AttributionOptions(target="gold", token_probabilities=most, predict=False))
    return [AnnotatedExample(example=a, attribution=b) for a, b in zip(examples, found, strict=True)]


def test_half_of_the_labels_loss_is_the_divergence_from_the_teacher_at_each_token(tmp_path: Path) -> None:
    """The witness asks the student for its own probabilities, through the code that teachers are asked by."""
    pair = Pair(tmp_path, "seq2seq")
    encoded = pair.student.tokenize([text for text, _ in TEXTS])
    vocabulary = pair.student.tokenizer.get_vocab()
    every = pair.student.token_probabilities(encoded, [answer for _, answer in TEXTS], len(vocabulary))
    by_hand = []
    for row, own in zip(pair.rows, every, strict=True):
        places = []
        for said, mine in zip(row.attribution.token_probabilities or (), own, strict=True):
            p = torch.tensor([value ** (1 / TEMPERATURE) for value in said.probabilities.values()]).double()
            q = torch.tensor([mine.probabilities[name] ** (1 / TEMPERATURE) for name in said.probabilities]).double()
            p, q = p / p.sum(), q / q.sum()
            places.append(TEMPERATURE**2 * (p * (p / q).log()).sum())
        by_hand.append(torch.stack(places).mean())
    label = pair.losses(pair.instances, "finetune")
    expected = (1 - TEACHER_SHARE) * label + TEACHER_SHARE * torch.stack(by_hand)
    assert_close(pair.losses(pair.instances), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", MAKERS)
def test_company_and_order_change_no_loss(tmp_path: Path, architecture: str) -> None:
    pair = Pair(tmp_path, architecture)
    together = pair.losses(pair.instances)
    assert_close(torch.cat([pair.losses([one]) for one in pair.instances]), together, rtol=1e-6, atol=1e-8)
    assert_close(pair.losses(pair.instances[::-1]), together.flip(0), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("architecture", MAKERS)
def test_training_draws_the_student_to_the_teachers_distribution(tmp_path: Path, architecture: str) -> None:
    pair = Pair(tmp_path, architecture)
    pair.model.requires_grad_(True)
    optimizer = torch.optim.Adam(pair.model.parameters(), lr=3e-3)

    def divergence() -> torch.Tensor:
        label = pair.losses(pair.instances, "finetune")
        return ((pair.losses(pair.instances) - (1 - TEACHER_SHARE) * label) / TEACHER_SHARE).mean()

    before = divergence().item()
    for _ in range(30):
        optimizer.zero_grad()
        divergence().backward()
        optimizer.step()
    assert before > 0
    assert 0 <= divergence().item() < 0.2 * before


@pytest.mark.parametrize("architecture", MAKERS)
def test_a_row_that_is_cut_into_other_tokens_trains_its_label_alone(tmp_path: Path, architecture: str) -> None:
    pair = Pair(tmp_path, architecture)
    said = pair.rows[1].attribution.token_probabilities or ()
    other = (said[0].model_copy(update={"token": "no such piece"}), *said[1:])
    foreign = pair.rows[1].attribution.model_copy(update={"token_probabilities": other})
    fewer = pair.rows[2].attribution.model_copy(update={"token_probabilities": said[:1]})
    silent = pair.rows[3].attribution.model_copy(update={"token_probabilities": None})
    rows = [pair.rows[0]] + [
        row.model_copy(update={"attribution": one})
        for row, one in zip(pair.rows[1:], (foreign, fewer, silent), strict=True)
    ]
    instances = pair.read(rows)
    assert [one.expected is not None for one in instances] == [True, False, False, False]
    found, plain = pair.losses(instances), pair.losses(instances, "finetune")
    assert_close(found[1:], plain[1:])
    assert found[0] != plain[0]


def test_a_token_that_the_student_lacks_is_left_out_and_the_rest_brought_to_one(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "seq2seq", most=3)
    lacking = [
        place.model_copy(update={"probabilities": {**place.probabilities, "no such piece": 0.5}})
        for place in pair.rows[0].attribution.token_probabilities or ()
    ]
    row = pair.rows[0].model_copy(
        update={"attribution": pair.rows[0].attribution.model_copy(update={"token_probabilities": tuple(lacking)})}
    )
    assert pair.read([row]) == pair.instances[:1]


def test_without_any_shared_row_the_recipe_is_refused(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "seq2seq")
    other = annotated(load_adapter(str(tiny_causal(tmp_path / "other")), device="cpu"), 4)
    with pytest.raises(InvalidRequest, match="tokenizer is of the teacher's family") as caught:
        pair.read(other)
    assert caught.value.param == "recipe"


def test_a_training_follows_its_teacher_and_counts_the_rows_that_it_could_not(
    tmp_path: Path, make_spec: Callable[..., TrainSpec]
) -> None:
    folder = tiny_seq2seq(tmp_path / "teacher")
    rows = annotated(load_adapter(str(folder), device="cpu"), 16) * 3
    rows = [
        row.model_copy(update={"example": row.example.model_copy(update={"id": str(i)})}) for i, row in enumerate(rows)
    ]
    rows[0] = rows[0].model_copy(
        update={"attribution": rows[0].attribution.model_copy(update={"token_probabilities": None})}
    )
    spec = make_spec(
        "saliency+logit_kd",
        model=f"cut:1@{folder}",
        task=TaskSpec(),
        rows=rows,
        hyperparameters=Hyperparameters(n_epochs=2, batch_size=4),
    )
    result = train(spec, tmp_path / "out", lambda _: None)
    assert (result.without_distribution, result.instances) == (1, 12)
    assert math.isfinite(result.validation_loss)


def test_on_an_open_task_it_goes_with_answers_that_stand_alone(
    tmp_path: Path, make_spec: Callable[..., TrainSpec]
) -> None:
    folder = tiny_seq2seq(tmp_path / "teacher")
    rows = annotated(load_adapter(str(folder), device="cpu"), 4)
    spec = make_spec("label_then_rationale+logit_kd", model=f"cut:1@{folder}", task=TaskSpec(), rows=rows)
    with pytest.raises(InvalidRequest, match="label_then_rationale writes it among other words"):
        train(spec, tmp_path / "out", lambda _: None)
    silent = [
        row.model_copy(update={"attribution": row.attribution.model_copy(update={"token_probabilities": None})})
        for row in rows
    ]
    with pytest.raises(InvalidRequest, match="both tokenizers must be of one family"):
        train(
            make_spec("logit_kd", model=f"cut:1@{folder}", task=TaskSpec(), rows=silent), tmp_path / "b", lambda _: None
        )
