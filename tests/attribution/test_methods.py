"""Numbers with a hand-made witness: a linear model, whose attributions are known in closed form (see conftest)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from understudy.attribution.methods import (
    METHODS,
    AttentionRollout,
    FirstWords,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    RandomWords,
    Saliency,
    SmoothGrad,
    make_method,
    settings_of,
)
from understudy.attribution.words import word_spans
from understudy.errors import InvalidRequest, ModelError, UnknownName
from understudy.models.attention import Attention
from understudy.models.base import Adapter, Batch
from understudy.testing import SENTENCES
from understudy.testing import TARGETS as TARGETS_OF_SENTENCES

TEXTS = ("a b c", "c")
TARGETS = ("ad", "b")


@pytest.fixture
def batch(linear: Adapter) -> Batch:
    return with_words(linear.encode(TEXTS, TARGETS))


@pytest.fixture
def contrast(linear: Adapter) -> Batch:
    return with_words(linear.encode(TEXTS, TARGETS, ("c", "dd")))


def with_words(batch: Batch) -> Batch:
    return replace(batch, words=tuple(tuple(word_spans(text)) for text in batch.texts))


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


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_gradient_of_a_linear_model_is_smooth_already(
    linear: Adapter, batch: Batch, contrast: Batch, norm: str
) -> None:
    smooth = make_method("smooth_grad", {"n_samples": 3, "noise": 2.0, "norm": norm})
    for asked in every_question(batch, contrast):
        torch.testing.assert_close(smooth(linear, asked), make_method("saliency", {"norm": norm})(linear, asked))


@pytest.mark.parametrize("samples", [1, 7])
def test_gradient_shap_without_noise_is_exact_on_a_linear_model(
    linear: Adapter, batch: Batch, contrast: Batch, samples: int
) -> None:
    for asked in every_question(batch, contrast):
        expected = terms(linear, asked, linear.embed(asked.ids) - linear.baseline(asked))
        torch.testing.assert_close(GradientShap(n_samples=samples, noise=0)(linear, asked), expected)


def test_gradient_shap_with_noise_is_that_on_average(linear: Adapter, batch: Batch) -> None:
    expected = terms(linear, batch, linear.embed(batch.ids) - linear.baseline(batch))
    found = GradientShap(n_samples=1000, noise=1.0)(linear, batch)
    once = GradientShap(n_samples=1, noise=1.0)(linear, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.5)
    assert (once - expected).abs().max() > 1


@pytest.fixture
def cubic(linear: Adapter, monkeypatch: pytest.MonkeyPatch) -> Adapter:
    """The linear model's logits to the third power: the least that bends where a mean over points would show it."""
    scores = linear.token_scores
    monkeypatch.setattr(linear, "token_scores", lambda *args: scores(*args) ** 3)
    return linear


def test_smooth_grad_sees_how_the_model_bends(cubic: Adapter) -> None:
    """The mean of 3 x^2 over noise is 3 (x^2 + its variance)."""
    batch = cubic.encode(["a b c"], ["c"])
    text = cubic.embed(batch.ids)[batch.text_tokens]
    slope = cubic.model.weights[3]
    variance = len(text) * (0.2 * text.std(correction=0)) ** 2 * slope.square().sum()
    logit = cubic.embed(batch.ids).sum((0, 1)) @ slope + 1
    expected = (3 * (logit**2 + variance) * slope).abs().sum()
    found = SmoothGrad(n_samples=1000, noise=0.2)(cubic, batch)
    assert found[0].tolist() == pytest.approx([float(expected)] * 4, rel=0.1)
    assert variance / logit**2 > 0.3


def test_gradient_shap_sees_how_the_model_bends(cubic: Adapter) -> None:
    """Points all along the way, which the middle alone would not make up for, and others for each seed."""
    batch = cubic.encode(["a b c"], ["b"])
    start, end = (cubic.objective(batch)(at, *batch.rows) for at in (cubic.baseline(batch), cubic.embed(batch.ids)))
    found = [GradientShap(n_samples=100, noise=0, seed=seed)(cubic, batch).sum() for seed in range(3)]
    assert [float(total) for total in found] == pytest.approx([float(end - start)] * 3, rel=0.01)
    assert len({float(total) for total in found}) == 3


def test_two_steps_integrate_a_parabola_and_one_does_not(cubic: Adapter) -> None:
    """The gradient of a cubic score is one, and Gauss-Legendre points are exact to the third power."""
    batch = cubic.encode(["a b c"], ["b"])
    start, end = (cubic.objective(batch)(at, *batch.rows) for at in (cubic.baseline(batch), cubic.embed(batch.ids)))
    one, two = (float(IntegratedGradients(n_steps=steps)(cubic, batch).sum()) for steps in (1, 2))
    assert two == pytest.approx(float(end - start), rel=1e-12)
    assert one != pytest.approx(two, rel=1e-2)


def test_occlusion_of_a_linear_model_is_what_the_word_adds(linear: Adapter, batch: Batch, contrast: Batch) -> None:
    for asked in every_question(batch, contrast):
        found = Occlusion()(linear, asked)
        letters = terms(linear, asked, linear.embed(asked.ids))  # a word is a letter
        expected = letters[:, :3] * asked.text_tokens[:, :3]
        torch.testing.assert_close(found, expected)


def test_a_word_that_has_no_token_is_worth_nothing(linear: Adapter, batch: Batch) -> None:
    """And a token that belongs to two words goes with either."""
    spans = ((1, 2), (0, 1), (0, 3))
    found = Occlusion()(linear, replace(batch, words=(spans, ())))
    letters = terms(linear, batch, linear.embed(batch.ids))
    assert found[0].tolist() == pytest.approx([0, letters[0, 0].item(), letters[0, :2].sum().item()])
    assert found[1].tolist() == [0, 0, 0]


def test_a_word_without_a_token_is_worth_exactly_nothing(seq2seq: Adapter) -> None:
    """In float32 the same text scores another last digit beside other neighbours."""
    batch = seq2seq.encode(SENTENCES, TARGETS_OF_SENTENCES)
    spaces = tuple(((text.index(" "), text.index(" ") + 1), (0, len(text))) for text in SENTENCES)
    found = Occlusion()(seq2seq, replace(batch, words=spaces))
    assert found[:, 0].tolist() == [0] * len(SENTENCES)
    assert found[:, 1].ne(0).all()


def test_without_any_word_there_is_nothing_to_leave_out(linear: Adapter, batch: Batch) -> None:
    for method in (Occlusion(), RandomWords(), FirstWords()):
        assert method(linear, replace(batch, words=((), ()))).shape == (2, 0)


FIRST = torch.tensor([[[0.2, 0.8, 0.0], [0.5, 0.5, 0.0], [0.1, 0.2, 0.7]]] * 2, dtype=torch.float64)
SECOND = torch.tensor([[[1.0, 0.0, 0.0], [0.3, 0.3, 0.4], [0.0, 0.6, 0.4]]] * 2, dtype=torch.float64)
READING = torch.tensor([[[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]], dtype=torch.float64)


def test_rollout_is_the_product_of_half_attention_and_half_residual(linear: Any) -> None:
    linear.seen = Attention([FIRST, SECOND], READING)
    batch = linear.encode(["ab", "cd"], TARGETS)
    one = torch.eye(3, dtype=torch.float64)
    flow = READING @ (0.5 * SECOND + 0.5 * one) @ (0.5 * FIRST + 0.5 * one)  # (B, S, T)
    torch.testing.assert_close(AttentionRollout().rows(linear, batch), flow.transpose(0, 1))
    torch.testing.assert_close(AttentionRollout()(linear, batch), torch.stack([flow[0].mean(0), flow[1, 0]]))
    torch.testing.assert_close(AttentionRollout()(linear, replace(batch, token=1)), flow[:, 1])
    assert flow[0].sum(-1).tolist() == pytest.approx([1, 1])  # what is read comes from somewhere


def test_rollout_shows_of_a_longer_sequence_what_the_input_is(linear: Any) -> None:
    linear.seen = Attention([FIRST, SECOND], READING)
    short = linear.encode(["a", "b"], TARGETS)
    assert AttentionRollout()(linear, short).shape == short.ids.shape == (2, 2)


def test_rollout_says_that_it_needs_attention_weights(linear: Adapter, batch: Batch) -> None:
    with pytest.raises(
        ModelError, match="'attention_rollout' needs attention weights, and a Module gives none"
    ) as caught:
        AttentionRollout()(linear, batch)
    assert caught.value.param == "method"


def test_random_words_depend_on_the_text_and_the_seed_alone(linear: Adapter, batch: Batch) -> None:
    found = RandomWords()(linear, batch)
    alone = RandomWords()(linear, with_words(linear.encode(TEXTS[1:], ["d"])))
    assert found[1, 0] == alone[0, 0]
    assert found[1, 1:].tolist() == [0, 0]
    assert len({*found[0].tolist(), *RandomWords(seed=1)(linear, batch)[0].tolist(), found[1, 0].item()}) == 7
    longer = replace(batch, words=(batch.words[0] + ((5, 6),), batch.words[1]))
    assert torch.equal(RandomWords()(linear, longer)[:, :3], found)


def test_random_words_are_spread_evenly(linear: Adapter) -> None:
    texts = [f"{'a ' * 50}{i}" for i in range(20)]
    batch = replace(linear.encode(["a"] * 20, ["a"] * 20), texts=tuple(texts), words=(((0, 1),) * 50,) * 20)
    found = RandomWords()(linear, batch)
    assert 0.48 < found.mean() < 0.52
    assert 0 < found.min() < 0.01
    assert 0.99 < found.max() < 1


def test_the_first_words_come_first(linear: Adapter, batch: Batch) -> None:
    assert FirstWords()(linear, batch).tolist() == [pytest.approx([1, 2 / 3, 1 / 3]), [1, 0, 0]]


TOKEN_METHODS = [
    Saliency(),
    InputXGradient(),
    IntegratedGradients(n_steps=3),
    SmoothGrad(n_samples=2),
    GradientShap(n_samples=2),
]


@pytest.mark.parametrize("method", [*TOKEN_METHODS, Occlusion()])
def test_a_row_is_the_map_of_one_token(linear: Adapter, batch: Batch, method: Saliency) -> None:
    rows = method.rows(linear, batch)
    assert rows.shape == (2, *method(linear, batch).shape)
    for s, row in enumerate(rows):
        torch.testing.assert_close(row, method(linear, replace(batch, token=s)))
    assert rows[1, 1].abs().max() == 0  # the second answer has one token


@pytest.mark.parametrize("method", [*TOKEN_METHODS, Occlusion()])
@pytest.mark.parametrize("budget", [1, 9, 64])
def test_how_many_share_a_pass_never_matters(
    linear: Adapter, batch: Batch, method: Saliency, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warnings are errors here: captum has some for inputs without gradient and for small internal batches."""
    expected = method(linear, batch)
    passes: list[int] = []
    scores = linear.token_scores

    def watched(embeds: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        passes.append(embeds.shape[0] * embeds.shape[1])
        return scores(embeds, mask, labels)

    monkeypatch.setattr(linear, "token_scores", watched)
    monkeypatch.setattr(linear, "max_padded_tokens", budget)
    torch.testing.assert_close(method(linear, batch), expected, rtol=1e-13, atol=1e-13)
    assert max(passes) <= max(budget, batch.ids.numel())


def test_every_method_says_what_it_scores_and_what_it_promises() -> None:
    assert {name for name in METHODS if METHODS.get(name).unit == "word"} == {"first_words", "occlusion", "random"}
    assert {name for name in METHODS if METHODS.get(name).complete} == {"gradient_shap", "integrated_gradients"}


def test_an_unknown_method_lists_those_there_are() -> None:
    with pytest.raises(UnknownName, match=r"input_x_gradient, integrated_gradients, .*saliency.*Did you mean 'salie"):
        METHODS.get("salience", param="method")


def test_a_method_says_all_its_settings() -> None:
    assert settings_of(make_method("integrated_gradients", {})) == {"n_steps": 20}
    assert settings_of(make_method("integrated_gradients", {"n_steps": 3})) == {"n_steps": 3}
    assert settings_of(make_method("smooth_grad", {"seed": 7})) == {
        "n_samples": 10,
        "noise": 0.25,
        "seed": 7,
        "norm": "l1",
    }
    assert settings_of(make_method("first_words", {})) == {}


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("n_samples", (0, 1001)),
        ("n_steps", (0, 1001)),
        ("noise", (-0.1, 10.1)),
        ("seed", (-1, 2**32)),
        ("norm", ("l3",)),
    ],
)
def test_every_setting_has_bounds(name: str, setting: str, values: tuple[object, ...]) -> None:
    """A request can ask for no work without end; a setting of another method is refused like any other mistake."""
    for value in values:
        with pytest.raises(InvalidRequest) as caught:
            make_method(name, {setting: value})
        assert caught.value.param == f"settings.{setting}"


@pytest.mark.parametrize(
    ("settings", "param", "words"),
    [
        ({"n_steps": 0}, "settings.n_steps", "greater than or equal to 1"),
        ({"n_steps": "many"}, "settings.n_steps", "valid integer"),
        ({"steps": 3}, "settings.steps", r"there is no such setting \(it has n_steps\)"),
        ({"n_steps": 1001}, "settings.n_steps", "less than or equal to 1000"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        make_method("integrated_gradients", settings)
    assert caught.value.param == param
