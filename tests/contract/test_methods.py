"""What every method promises on every adapter."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from understudy.attribution.attribute import attribute
from understudy.attribution.methods import METHODS, IntegratedGradients, make_method
from understudy.models.base import Adapter
from understudy.schemas import Attribution, AttributionExample, AttributionOptions
from understudy.testing import LABELS, SENTENCES, TARGETS

EXAMPLES = [
    AttributionExample(id=str(i), input=text, output=target)
    for i, (text, target) in enumerate(zip(SENTENCES, TARGETS, strict=True))
] + [
    AttributionExample(id="long", input="a dull film and a wonderful teacher " * 40, output="positive"),
    AttributionExample(id="blank", input="   ", output="negative"),
    AttributionExample(id="short", input="fun", output="neutral"),
]

SETTINGS: dict[str, dict[str, float | int | str]] = {
    "integrated_gradients": {"n_steps": 5},
    "smooth_grad": {"n_samples": 3},
    "gradient_shap": {"n_samples": 3},
}
"""Few passes each: what is asked here does not depend on their number."""


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def explain(adapter: Adapter, method: str, examples: list[AttributionExample], budget: int = 256) -> list[Attribution]:
    options = AttributionOptions(method=method, settings=SETTINGS.get(method, {}), labels=LABELS, target="gold")
    return attribute(adapter, examples, options, max_padded_tokens=budget)


def assert_same(one: Attribution, other: Attribution) -> None:
    assert [(word.text, word.start, word.end) for word in one.words] == [
        (word.text, word.start, word.end) for word in other.words
    ]
    scores, others = ([word.score for word in found.words] for found in (one, other))
    assert scores == pytest.approx(others, rel=1e-10, abs=1e-12)
    assert [word.start for word in one.rationale] == [word.start for word in other.rationale]
    assert one.model_dump(exclude={"words", "rationale", "probability", "probabilities"}) == other.model_dump(
        exclude={"words", "rationale", "probability", "probabilities"}
    )
    assert one.probability == pytest.approx(other.probability, rel=1e-10)


def test_a_batch_explains_as_one_by_one(adapter: Adapter, method: str) -> None:
    together = explain(adapter, method, EXAMPLES)
    for example, found in zip(EXAMPLES, together, strict=True):
        assert_same(found, explain(adapter, method, [example])[0])


def test_the_order_of_the_examples_never_matters(adapter: Adapter, method: str) -> None:
    expected = {found.id: found for found in explain(adapter, method, EXAMPLES)}
    shuffled = random.Random(1).sample(EXAMPLES, len(EXAMPLES))
    found = explain(adapter, method, shuffled, budget=512)
    assert [one.id for one in found] == [example.id for example in shuffled]
    for one in found:
        assert_same(one, expected[one.id])


def test_padding_scores_zero(adapter: Adapter, method: str) -> None:
    batch = adapter.encode([SENTENCES[0], "fun"], ["positive", "negative"])
    scores = make_method(method, SETTINGS.get(method, {}))(adapter, batch)
    assert scores.shape == batch.ids.shape
    assert scores[batch.mask.eq(0)].abs().max() == 0
    assert scores[batch.text_tokens].abs().min() > 0
    assert not scores.requires_grad


def test_only_words_of_the_users_text_are_scored(adapter: Adapter, method: str) -> None:
    for example, found in zip(EXAMPLES, explain(adapter, method, EXAMPLES), strict=True):
        assert all(example.input[word.start : word.end] == word.text for word in found.words)
        assert [word.start for word in found.words] == sorted(word.start for word in found.words)
        assert all(word.text.strip(".,:;! ") for word in found.words)
        assert found.explained == example.output


def test_the_rationale_is_the_best_words_in_reading_order(adapter: Adapter, method: str) -> None:
    for found in explain(adapter, method, EXAMPLES):
        assert len(found.rationale) <= 5
        assert list(found.rationale) == [word for word in found.words if word in found.rationale]
        left_out = [word.score for word in found.words if word not in found.rationale]
        if len(found.rationale) == 5 and left_out:
            assert max(left_out) <= min(word.score for word in found.rationale)


def test_words_behind_the_cut_are_absent(adapter: Adapter, method: str) -> None:
    long = next(found for found in explain(adapter, method, EXAMPLES) if found.id == "long")
    assert long.truncated > 0
    assert 0 < len(long.words) < 280
    assert all(word.score != 0 for word in long.words)


def test_what_is_explained_makes_a_difference(adapter: Adapter, method: str) -> None:
    one, other = (
        explain(adapter, method, [AttributionExample(input=SENTENCES[0], output=output)])[0] for output in LABELS[:2]
    )
    assert [word.score for word in one.words] != pytest.approx([word.score for word in other.words], rel=1e-3)


def test_integrated_gradients_are_complete(adapter: Adapter) -> None:
    batch = adapter.encode(SENTENCES, TARGETS)
    found = IntegratedGradients(n_steps=50)(adapter, batch).sum(-1)
    reached = adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)
    distance = reached - adapter.score(adapter.baseline(batch), batch.mask, batch.labels)
    gap = (found - distance).abs() / distance.abs()
    assert gap.median() < 0.02


def test_integrated_gradients_give_template_and_target_tokens_nothing(adapter: Adapter) -> None:
    batch = adapter.encode(SENTENCES, TARGETS)
    scores = IntegratedGradients(n_steps=5)(adapter, batch)
    assert scores[~batch.text_tokens].abs().max() == 0


def test_attribution_leaves_no_gradient_behind(adapters: Callable[[str], Adapter], method: str) -> None:
    adapter = adapters("t5")
    explain(adapter, method, EXAMPLES[:2])
    assert all(parameter.grad is None for parameter in adapter.model.parameters())
    assert torch.is_grad_enabled()
