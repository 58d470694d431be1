"""Numbers with a hand-made witness: a linear model, whose gradients are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from understudy.attribution.methods import METHODS, InputXGradient, IntegratedGradients, Method, Saliency
from understudy.errors import UnknownName
from understudy.models.base import Batch

WEIGHTS = torch.tensor([[1.0, -2.0], [0.5, 0.0], [-3.0, 4.0]], dtype=torch.float64)  # (T, D): one row a position
TABLE = torch.tensor([[0.0, 0.0], [1.0, 2.0], [-1.0, 1.0], [3.0, 0.5]], dtype=torch.float64)


def linear(neutral: Tensor) -> Any:
    """An adapter whose score is a weighted sum of the embeddings, plus one."""
    return SimpleNamespace(
        embed=lambda ids: TABLE[ids],
        score=lambda embeds, mask, labels: (embeds * WEIGHTS * mask.unsqueeze(-1)).sum((1, 2)) * labels + 1,
        baseline=lambda batch: neutral.expand(*batch.ids.shape, 2),
        max_padded_tokens=64,
    )


@pytest.fixture
def batch() -> Batch:
    return Batch(
        texts=("a b c", "c a"),
        ids=torch.tensor([[1, 2, 3], [3, 1, 0]]),
        mask=torch.tensor([[1, 1, 1], [1, 1, 0]]),
        labels=torch.tensor([1.0, 2.0], dtype=torch.float64),
        offsets=(((0, 1), (2, 3), (4, 5)), ((0, 1), (2, 3), None)),
        truncated=(0, 0),
    )


def test_saliency_of_a_linear_model_is_the_norm_of_its_weights(batch: Batch) -> None:
    found = Saliency()(linear(TABLE[0]), batch)
    assert found.tolist() == [[3.0, 0.5, 7.0], [6.0, 1.0, 0.0]]


def test_input_x_gradient_of_a_linear_model_is_each_tokens_term(batch: Batch) -> None:
    found = InputXGradient()(linear(TABLE[0]), batch)
    assert found.tolist() == [[-3.0, -0.5, -7.0], [4.0, 1.0, 0.0]]


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_integrated_gradients_of_a_linear_model_are_exact_in_one_step(batch: Batch, steps: int) -> None:
    neutral = torch.tensor([0.5, -0.5], dtype=torch.float64)
    found = IntegratedGradients(n_steps=steps)(linear(neutral), batch)
    expected = ((TABLE[batch.ids] - neutral) * WEIGHTS * batch.mask.unsqueeze(-1)).sum(-1) * batch.labels.unsqueeze(-1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", [Saliency(), InputXGradient(), IntegratedGradients()])
def test_methods_warn_of_nothing(batch: Batch, method: Method) -> None:
    """Warnings are errors here: captum has some for inputs without gradient and for small internal batches."""
    adapter = linear(TABLE[0])
    adapter.max_padded_tokens = 1
    assert method(adapter, batch).shape == batch.ids.shape


def test_an_unknown_method_lists_those_there_are() -> None:
    with pytest.raises(UnknownName, match=r"input_x_gradient, integrated_gradients, saliency.*Did you mean 'saliency'"):
        METHODS.get("salience", param="method")
