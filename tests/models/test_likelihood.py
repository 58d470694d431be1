"""Three numbers with hand-made witnesses: logits whose softmax is known."""

from __future__ import annotations

import pytest
import torch

from understudy.models.likelihood import (
    IGNORE,
    GreedySteps,
    path_probabilities,
    sum_log_probabilities,
    target_logits,
)

END = 3


def logits_of(*chances: list[float]) -> torch.Tensor:
    """(B, S, V) logits with these probabilities, shifted, because a softmax does not see a shift."""
    return torch.tensor(chances, dtype=torch.float64).log() + 7


LOGITS = torch.stack(
    [
        logits_of([0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]),
        logits_of([0.4, 0.3, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1], [0.01, 0.01, 0.01, 0.97]),
    ]
)
LABELS = torch.tensor([[0, 2, IGNORE], [IGNORE, 0, 3]])


def test_the_logits_of_a_target_are_those_of_its_own_tokens() -> None:
    own = LABELS.ne(IGNORE)
    expected = torch.tensor([[0.5, 0.3, 1.0], [1.0, 0.7, 0.97]], dtype=torch.float64).log() + 7 * own
    torch.testing.assert_close(target_logits(LOGITS, LABELS, own), expected)


def test_a_likelihood_is_a_product_over_labelled_positions_only() -> None:
    assert sum_log_probabilities(LOGITS, LABELS).exp().tolist() == pytest.approx([0.5 * 0.3, 0.7 * 0.97])


def test_a_poisoned_position_that_is_not_scored_does_no_harm() -> None:
    poisoned = LOGITS.clone()
    poisoned[0, 2] = float("nan")
    assert target_logits(poisoned, LABELS, LABELS.ne(IGNORE)).isfinite().all()
    assert sum_log_probabilities(poisoned, LABELS).isfinite().all()


def test_what_is_written_counts_up_to_its_first_end() -> None:
    greedy = GreedySteps()
    for step in range(3):
        assert torch.equal(greedy(torch.empty(0), LOGITS[:, step]), LOGITS[:, step])
    written = torch.tensor([[0, END, 1], [0, 0, END]])
    assert path_probabilities(greedy.steps, written, {END}) == pytest.approx([0.5 * 0.4, 0.4 * 0.7 * 0.97])
    assert path_probabilities(greedy.steps, written, {0, END}) == pytest.approx([0.5, 0.4])
    assert path_probabilities(greedy.steps, written, set()) == pytest.approx([0.5 * 0.4 * 0.25, 0.4 * 0.7 * 0.97])


def test_half_precision_is_summed_in_float32() -> None:
    half = LOGITS.bfloat16()
    for value in (target_logits(half, LABELS, LABELS.ne(IGNORE)), sum_log_probabilities(half, LABELS)):
        assert value.dtype == torch.float32
