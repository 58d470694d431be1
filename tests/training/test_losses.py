"""Every loss against a hand-made witness, and what must not change it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from understudy.training.losses import (
    alignment,
    cross_entropy,
    distillation,
    marks_cross_entropy,
    mixture,
    sequence_log_likelihood,
    word_norms,
)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


LABELS = torch.tensor([[1, 2, 3, -100, -100], [4, -100, -100, -100, -100], [1, 1, 1, 1, 1], [6, 5, 4, 3, -100]])


def test_cross_entropy_of_a_text_is_the_mean_over_its_own_tokens(logits: torch.Tensor) -> None:
    losses = cross_entropy(logits, LABELS)
    by_hand = -logits[0].log_softmax(-1)[[0, 1, 2], [1, 2, 3]].mean()
    assert_close(losses[0], by_hand)


def test_cross_entropy_of_a_class_is_minus_its_log_probability() -> None:
    scores = torch.tensor([[0.0, math.log(3.0)]])
    assert_close(cross_entropy(scores, torch.tensor([1])), torch.tensor([-math.log(0.75)]))


def test_an_example_without_targets_costs_nothing(logits: torch.Tensor) -> None:
    assert cross_entropy(logits, torch.full((4, 5), -100)).tolist() == [0, 0, 0, 0]


def test_padding_does_not_change_a_text_loss(logits: torch.Tensor) -> None:
    wider = torch.cat([logits, torch.randn(4, 3, 7, dtype=torch.float64)], dim=1)
    labels = torch.cat([LABELS, torch.full((4, 3), -100)], dim=1)
    assert_close(cross_entropy(wider, labels), cross_entropy(logits, LABELS))
    assert_close(sequence_log_likelihood(wider, labels), sequence_log_likelihood(logits, LABELS))


def test_batch_order_does_not_change_an_examples_loss(logits: torch.Tensor) -> None:
    order = [2, 0, 3, 1]
    assert_close(cross_entropy(logits[order], LABELS[order]), cross_entropy(logits, LABELS)[order])


def test_log_likelihood_is_the_sum_over_tokens(logits: torch.Tensor) -> None:
    lengths = (LABELS != -100).sum(-1)
    assert_close(sequence_log_likelihood(logits, LABELS), -cross_entropy(logits, LABELS) * lengths)


def test_gate_loss_of_an_undecided_gate_is_log_two() -> None:
    loss = marks_cross_entropy(torch.zeros(1, 4), torch.tensor([[1.0, 0, 0, 1]]), torch.ones(1, 4))
    assert_close(loss, torch.tensor([math.log(2)]))


def test_gate_loss_ignores_what_is_masked() -> None:
    gate = torch.tensor([[2.0, -1.0, 50.0, -50.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    masked = marks_cross_entropy(gate, targets, torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    assert_close(masked, marks_cross_entropy(gate[:, :2], targets[:, :2], torch.ones(1, 2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_gate_shut_on_padding_poisons_nothing(dtype: torch.dtype) -> None:
    gate = torch.tensor([[1.0, torch.finfo(dtype).min]], dtype=dtype, requires_grad=True)
    marks_cross_entropy(gate, torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])).sum().backward()
    assert gate.grad is not None
    assert torch.isfinite(gate.grad).all()
    assert gate.grad[0, 1] == 0


def test_a_gate_without_any_token_costs_nothing() -> None:
    assert marks_cross_entropy(torch.randn(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0, 0]


def test_distillation_is_zero_when_the_student_agrees() -> None:
    scores = torch.randn(3, 4, dtype=torch.float64)
    for temperature in (1.0, 2.0, 5.0):
        losses = distillation(scores, scores.softmax(-1), temperature)
        assert_close(losses, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_distillation_at_temperature_one_is_the_plain_divergence() -> None:
    student, teacher = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    by_hand = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert_close(distillation(student.log(), teacher, 1.0), torch.tensor([by_hand]))


def test_distillation_gradient_keeps_its_size_when_the_temperature_is_high() -> None:
    teacher_logits = torch.tensor([[0.4, -0.3, -0.1]], dtype=torch.float64)
    norms = []
    for temperature in (20.0, 40.0):
        scores = torch.tensor([[-0.2, 0.3, -0.1]], dtype=torch.float64, requires_grad=True)
        distillation(scores, teacher_logits.softmax(-1), temperature).sum().backward()
        assert scores.grad is not None
        norms.append(scores.grad.norm().item())
        # Hinton et al. 2015, equation 4: in the limit the gradient is (z - v) / N.
        assert_close(scores.grad, (scores.detach() - teacher_logits) / 3, rtol=0.05, atol=1e-3)
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def test_a_candidate_that_does_not_exist_changes_nothing() -> None:
    scores, teacher = torch.randn(2, 3), torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    wider = distillation(
        torch.cat([scores, torch.full((2, 1), 9.0)], 1),
        torch.cat([teacher, torch.zeros(2, 1)], 1),
        2.0,
        mask=torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0]]),
    )
    assert_close(wider, distillation(scores, teacher, 2.0))
    assert torch.isfinite(wider).all()


def test_mixture_end_points_are_the_losses_themselves() -> None:
    label, teacher, present = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 7.0]), torch.ones(2)
    assert mixture(label, teacher, 0.0, present).tolist() == label.tolist()
    assert mixture(label, teacher, 1.0, present).tolist() == teacher.tolist()
    assert mixture(label, teacher, 0.5, present).tolist() == [3.0, 4.5]


def test_a_row_the_teacher_said_nothing_about_trains_its_label_in_full() -> None:
    mixed = mixture(torch.tensor([1.0, 1.0]), torch.tensor([9.0, 9.0]), 0.5, torch.tensor([1.0, 0.0]))
    assert mixed.tolist() == [5.0, 1.0]


def test_a_words_norm_is_the_sum_over_its_tokens() -> None:
    gradients = torch.tensor([[[1.0, -2.0], [0.5, 0.0], [9.0, 9.0], [-3.0, 1.0]]])
    owners = torch.tensor([[0, 0, 2, 1]])  # the third token is of no word
    assert word_norms(gradients, owners, 2).tolist() == [[3.5, 4.0]]


def test_maps_of_one_shape_have_no_distance_and_opposite_ones_the_largest() -> None:
    teacher = torch.tensor([[0.6, 0.8, 0.0], [1.0, 0.0, 0.0]])
    assert_close(alignment(5 * teacher, teacher), torch.zeros(2), atol=1e-6, rtol=0)
    assert_close(alignment(torch.tensor([[0.0, 0.0, 2.0], [0.0, 7.0, 0.0]]), teacher), torch.full((2,), 2.0))


def test_a_map_without_any_score_has_a_finite_gradient() -> None:
    student = torch.zeros(1, 3, requires_grad=True)
    alignment(student, torch.tensor([[1.0, 0.0, 0.0]])).sum().backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
