"""What every method promises on every adapter."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from understudy.attribution.attribute import attribute
from understudy.attribution.methods import METHODS, GradientShap, IntegratedGradients, Method, make_method
from understudy.attribution.words import word_spans
from understudy.errors import InvalidRequest
from understudy.models.base import Adapter, Batch
from understudy.schemas import Attribution, AttributionExample, AttributionOptions
from understudy.testing import LABELS, SENTENCES, TARGETS

EXAMPLES = [
    AttributionExample(id=str(i), input=text, output=target)
    for i, (text, target) in enumerate(zip(SENTENCES[:5], TARGETS[:5], strict=True))
] + [
    AttributionExample(id="long", input="a dull film and a wonderful teacher " * 20, output="positive"),
    AttributionExample(id="blank", input="   ", output="negative"),
    AttributionExample(id="short", input="fun", output="neutral"),
]

SETTINGS: dict[str, dict[str, float | int | str]] = {
    "integrated_gradients": {"n_steps": 3},
    "smooth_grad": {"n_samples": 3},
    "gradient_shap": {"n_samples": 3},
}
"""Few passes each: what is asked here does not depend on their number."""

CONTROLS = {"random", "first_words"}

Explain = Callable[[Adapter, str], dict[str, Attribution]]


@pytest.fixture(params=["bart", "bert", "encoder-gate", "gpt2", "llama", "t5-gate", "t5-template"])
def adapter(request: pytest.FixtureRequest, adapters: Callable[[str], Adapter]) -> Adapter:
    """One of each architecture; what a method sees of the others is no different."""
    return adapters(request.param)


@pytest.fixture(
    params=["bart", "bert", "encoder-gate", "encoder-mean", "gpt2", "llama", "t5", "t5-gate", "t5-template"]
)
def every_adapter(request: pytest.FixtureRequest, adapters: Callable[[str], Adapter]) -> Adapter:
    return adapters(request.param)


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def explained() -> Explain:
    """The maps of all examples in batches, by id; each pair of adapter and method is asked once."""
    known: dict[tuple[int, str], dict[str, Attribution]] = {}

    def get(adapter: Adapter, method: str) -> dict[str, Attribution]:
        key = (id(adapter), method)
        if key not in known:
            known[key] = {str(found.id): found for found in explain(adapter, method, EXAMPLES)}
        return known[key]

    return get


def explain(
    adapter: Adapter, method: str, examples: Sequence[AttributionExample], budget: int = 256, **options: Any
) -> list[Attribution]:
    asked: dict[str, Any] = {"labels": LABELS, "target": "gold", **options}
    options_ = AttributionOptions(method=method, settings=SETTINGS.get(method, {}), **asked)
    return attribute(adapter, examples, options_, max_padded_tokens=budget)


def made(method: str) -> Method:
    return make_method(method, SETTINGS.get(method, {}))


def with_words(batch: Batch) -> Batch:
    return replace(batch, words=tuple(tuple(word_spans(text)) for text in batch.texts))


def tolerance(adapter: Adapter, method: str) -> float:
    """Of the largest score. Llama's plain attention computes its weights in float32 in a float64 model too."""
    return 1e-7 if method == "attention_rollout" and adapter.model.config.model_type == "llama" else 1e-12


LINEAR = 1e-6
"""Of the largest score: the RMS norms of T5 and Llama compute in float32, so that their gradients add up to that."""


def assert_same(one: Attribution, other: Attribution, bound: float) -> None:
    assert [(word.text, word.start, word.end) for word in one.words] == [
        (word.text, word.start, word.end) for word in other.words
    ]
    scores, others = ([word.score for word in found.words] for found in (one, other))
    # Scores are differences of numbers of about 0.1, whose last digit is 1e-17.
    largest = max(map(abs, others), default=1.0)
    assert scores == pytest.approx(others, rel=0, abs=bound * largest + 1e-16)
    assert [word.start for word in one.rationale] == [word.start for word in other.rationale]
    numbers = {"words", "rationale", "probability", "probabilities"}
    assert one.model_dump(exclude=numbers) == other.model_dump(exclude=numbers)
    assert one.probability == pytest.approx(other.probability, rel=1e-10)


def test_a_batch_explains_as_one_by_one(every_adapter: Adapter, method: str, explained: Explain) -> None:
    for example in EXAMPLES:
        alone = explain(every_adapter, method, [example])[0]
        assert_same(explained(every_adapter, method)[str(example.id)], alone, tolerance(every_adapter, method))


def test_neighbours_and_order_never_matter(adapter: Adapter, method: str, explained: Explain) -> None:
    shuffled = random.Random(1).sample(EXAMPLES, len(EXAMPLES))
    found = explain(adapter, method, shuffled, budget=512)
    assert [one.id for one in found] == [example.id for example in shuffled]
    for one in found:
        assert_same(one, explained(adapter, method)[str(one.id)], tolerance(adapter, method))


def test_padding_scores_zero(adapter: Adapter, method: str) -> None:
    batch = with_words(adapter.encode([SENTENCES[0], "fun", " "], ["positive", "negative", "neutral"]))
    scores = made(method)(adapter, batch)
    assert not scores.requires_grad
    if made(method).unit == "word":
        assert scores.shape == (3, len(batch.words[0]))
        assert scores[0].abs().min() > 0
        assert scores[1:, 1:].abs().max() == scores[2].abs().max() == 0
    else:
        assert scores.shape == batch.ids.shape
        assert scores[batch.mask.eq(0)].abs().max() == 0
        assert scores[batch.text_tokens].abs().min() > 0


def test_only_words_of_the_users_text_are_scored(adapter: Adapter, method: str, explained: Explain) -> None:
    for example in EXAMPLES:
        found = explained(adapter, method)[str(example.id)]
        assert all(example.input[word.start : word.end] == word.text for word in found.words)
        assert [word.start for word in found.words] == sorted(word.start for word in found.words)
        assert all(word.text.strip(".,:;! ") for word in found.words)
        assert found.explained == example.output


def test_the_rationale_is_the_best_words_in_reading_order(adapter: Adapter, method: str, explained: Explain) -> None:
    for found in explained(adapter, method).values():
        assert len(found.rationale) <= 5
        assert list(found.rationale) == [word for word in found.words if word in found.rationale]
        left_out = [word.score for word in found.words if word not in found.rationale]
        if len(found.rationale) == 5 and left_out:
            assert max(left_out) <= min(word.score for word in found.rationale)


def test_words_behind_the_cut_are_absent(adapter: Adapter, method: str, explained: Explain) -> None:
    long = explained(adapter, method)["long"]
    assert long.truncated > 0
    assert 0 < len(long.words) < 140
    assert all(word.score != 0 for word in long.words)


def test_what_is_explained_makes_a_difference(adapter: Adapter, method: str) -> None:
    one, other = (
        explain(adapter, method, [AttributionExample(input=SENTENCES[0], output=output)])[0] for output in LABELS[:2]
    )
    same = [word.score for word in one.words] == pytest.approx([word.score for word in other.words], rel=1e-3)
    # Where a model looks before it says the first token does not depend on what it says.
    assert same == (method in CONTROLS) or method == "attention_rollout"


ANSWERS = ("the plot is thin", "negative", "a film")


def rows_batch(adapter: Adapter) -> Batch:
    answers = LABELS if adapter.architecture == "classifier" else ANSWERS
    return with_words(adapter.encode(SENTENCES[:3], answers))


def test_a_row_is_the_map_of_one_token_of_the_answer(adapter: Adapter, method: str) -> None:
    asked = made(method)
    if not hasattr(asked, "rows"):
        assert method in CONTROLS
        return
    batch = rows_batch(adapter)
    rows = asked.rows(adapter, batch)
    assert rows.shape == (batch.labels.shape[1], *asked(adapter, batch).shape)
    largest = rows.abs().max()
    for s, row in enumerate(rows):
        torch.testing.assert_close(row, asked(adapter, replace(batch, token=s)), rtol=0, atol=1e-12 * float(largest))
    assert rows[~adapter.own(batch.labels).T].abs().sum() == 0


def test_the_map_of_an_answer_is_the_mean_of_its_rows(adapter: Adapter, method: str) -> None:
    """Where a method is linear in what it explains; a norm is not."""
    if method in CONTROLS | {"saliency", "smooth_grad"}:
        return
    batch = rows_batch(adapter)
    mean = made(method).rows(adapter, batch).sum(0) / adapter.own(batch.labels).sum(-1, keepdim=True)  # type: ignore[attr-defined]
    found = made(method)(adapter, batch)
    torch.testing.assert_close(found, mean, rtol=0, atol=LINEAR * float(found.abs().max()))


def test_a_contrast_is_the_difference_of_two_maps(adapter: Adapter, method: str) -> None:
    """Where a method is linear in what it explains, and a prompt is not cut for the longer answer."""
    batch = with_words(adapter.encode(SENTENCES[:3], LABELS, LABELS[1:] + LABELS[:1]))
    if method == "attention_rollout":
        with pytest.raises(InvalidRequest, match=r"'attention_rollout' .* cannot compare two answers") as caught:
            made(method)(adapter, batch)
        assert caught.value.param == "against"
        return
    found = made(method)(adapter, batch)
    one, other = (
        made(method)(adapter, replace(batch, labels=labels, against=None)) for labels in (batch.labels, batch.against)
    )
    if method in CONTROLS:
        assert torch.equal(found, one)
    elif method in {"saliency", "smooth_grad"}:
        assert not torch.allclose(found, one - other)
    else:
        torch.testing.assert_close(found, one - other, rtol=0, atol=LINEAR * float(one.abs().max() + other.abs().max()))


def test_integrated_gradients_are_complete(adapter: Adapter) -> None:
    assert completeness_gap(adapter, IntegratedGradients(n_steps=50)) < 0.02


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_gradient_shap_is_complete_with_samples_enough(adapters: Callable[[str], Adapter], name: str) -> None:
    assert completeness_gap(adapters(name), GradientShap(n_samples=40, noise=0.02)) < 0.02


def completeness_gap(adapter: Adapter, method: IntegratedGradients | GradientShap) -> float:
    """The median share of the score's change that a map misses."""
    batch = adapter.encode(SENTENCES[:6], TARGETS[:6])
    found = method(adapter, batch).sum(-1)
    reached = adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)
    distance = reached - adapter.score(adapter.baseline(batch), batch.mask, batch.labels)
    return float(((found - distance).abs() / distance.abs()).median())


@pytest.mark.parametrize("method_", [IntegratedGradients(n_steps=3), GradientShap(n_samples=3)])
def test_template_and_special_tokens_get_nothing_from_a_path(adapter: Adapter, method_: IntegratedGradients) -> None:
    batch = adapter.encode(SENTENCES[:4], TARGETS[:4])
    assert method_(adapter, batch)[~batch.text_tokens].abs().max() == 0


def test_a_method_leaves_the_model_as_it_was(adapter: Adapter, method: str) -> None:
    """No gradient is left behind, and later answers are the same to the last bit."""
    before = adapter.log_likelihoods(SENTENCES[:2], [LABELS] * 2)
    kernels = [module.config._attn_implementation for module in adapter.model.modules() if hasattr(module, "config")]
    made(method)(adapter, with_words(adapter.encode(SENTENCES[:2], TARGETS[:2])))
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in adapter.model.parameters())
    assert not any(module.training for module in adapter.model.modules())
    assert torch.is_grad_enabled()
    assert [
        module.config._attn_implementation for module in adapter.model.modules() if hasattr(module, "config")
    ] == kernels
    assert adapter.log_likelihoods(SENTENCES[:2], [LABELS] * 2) == before
