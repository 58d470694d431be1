"""Numbers with a hand-made witness: a linear model, whose attributions are known in closed form (see conftest)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from understudy.attribution.methods import (
    METHODS,
    InputXGradient,
    IntegratedGradients,
    Saliency,
    make_method,
    settings_of,
)
from understudy.errors import InvalidRequest, UnknownName
from understudy.models.base import Adapter, Batch

TEXTS = ("abc", "c")
TARGETS = ("ad", "b")


@pytest.fixture
def batch(linear: Adapter) -> Batch:
    return linear.encode(TEXTS, TARGETS)


@pytest.fixture
def contrast(linear: Adapter) -> Batch:
    return linear.encode(TEXTS, TARGETS, ("c", "dd"))


def slopes(adapter: Adapter, batch: Batch) -> Tensor:
    """(B, D): what one more of each dimension adds to the objective, read off the model's weights."""
    weights = adapter.model.weights
    labels = [[weights[i] for i in row if i >= 0] for row in batch.labels.tolist()]
    if batch.token is not None:
        return torch.stack([row[batch.token] if batch.token < len(row) else torch.zeros(2).double() for row in labels])
    found = torch.stack([torch.stack(row).mean(0) for row in labels])
    return (
        found if batch.against is None else found - slopes(adapter, replace(batch, labels=batch.against, against=None))
    )


def every_question(batch: Batch, contrast: Batch) -> list[Batch]:
    """The mean over the answer, each of its tokens, and why not another answer."""
    return [batch, replace(batch, token=0), replace(batch, token=1), contrast]


def terms(adapter: Adapter, batch: Batch, vectors: Tensor) -> Tensor:
    """(B, T): each token's vector times the slopes, zero for padding."""
    return (vectors * slopes(adapter, batch).unsqueeze(1)).sum(-1) * batch.mask


@pytest.mark.parametrize(("norm", "order"), [("l1", 1), ("l2", 2)])
def test_saliency_of_a_linear_model_is_the_norm_of_its_weights(
    linear: Adapter, batch: Batch, contrast: Batch, norm: str, order: int
) -> None:
    for asked in every_question(batch, contrast):
        expected = slopes(linear, asked).norm(order, dim=-1).unsqueeze(1) * asked.mask
        torch.testing.assert_close(make_method("saliency", {"norm": norm})(linear, asked), expected)


def test_input_x_gradient_of_a_linear_model_is_each_tokens_term(linear: Adapter, batch: Batch, contrast: Batch) -> None:
    for asked in every_question(batch, contrast):
        torch.testing.assert_close(InputXGradient()(linear, asked), terms(linear, asked, linear.embed(asked.ids)))


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_integrated_gradients_of_a_linear_model_are_exact_in_one_step(
    linear: Adapter, batch: Batch, contrast: Batch, steps: int
) -> None:
    for asked in every_question(batch, contrast):
        expected = terms(linear, asked, linear.embed(asked.ids) - linear.baseline(asked))
        torch.testing.assert_close(IntegratedGradients(n_steps=steps)(linear, asked), expected)


@pytest.mark.parametrize("method", [Saliency(), InputXGradient(), IntegratedGradients(n_steps=3)])
def test_a_row_is_the_map_of_one_token(linear: Adapter, batch: Batch, method: Saliency) -> None:
    rows = method.rows(linear, batch)
    assert rows.shape == (2, *batch.ids.shape)
    for s, row in enumerate(rows):
        torch.testing.assert_close(row, method(linear, replace(batch, token=s)))
    assert rows[1, 1].abs().max() == 0  # the second answer has one token


@pytest.mark.parametrize("method", [Saliency(), InputXGradient(), IntegratedGradients()])
def test_methods_warn_of_nothing(linear: Adapter, batch: Batch, method: Saliency) -> None:
    """Warnings are errors here: captum has some for inputs without gradient and for small internal batches."""
    linear.max_padded_tokens = 1  # type: ignore[misc]
    assert method(linear, batch).shape == batch.ids.shape


def test_an_unknown_method_lists_those_there_are() -> None:
    with pytest.raises(UnknownName, match=r"input_x_gradient, integrated_gradients, .*saliency.*Did you mean 'salie"):
        METHODS.get("salience", param="method")


def test_a_method_says_all_its_settings() -> None:
    assert settings_of(make_method("integrated_gradients", {})) == {"n_steps": 20}
    assert settings_of(make_method("integrated_gradients", {"n_steps": 3})) == {"n_steps": 3}


@pytest.mark.parametrize(
    ("settings", "param", "words"),
    [
        ({"n_steps": 0}, "settings.n_steps", "greater than or equal to 1"),
        ({"n_steps": "many"}, "settings.n_steps", "valid integer"),
        ({"steps": 3}, "settings.steps", r"there is no such setting \(it has n_steps\)"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        make_method("integrated_gradients", settings)
    assert caught.value.param == param
