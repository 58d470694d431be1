from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from understudy.attribution.attribute import attribute
from understudy.attribution.methods import IntegratedGradients, Saliency
from understudy.errors import InvalidRequest, ModelError, UnknownName
from understudy.models.base import Adapter, Batch
from understudy.models.load import load_adapter
from understudy.schemas import AttributionExample
from understudy.testing import LABELS, SENTENCES, TARGETS, tiny_classifier

EXAMPLES = [AttributionExample(input=text, output=gold) for text, gold in zip(SENTENCES, TARGETS, strict=True)]


def test_the_prediction_is_reported_beside_the_gold_target(classifier: Adapter) -> None:
    for found, example, answer in zip(
        attribute(classifier, EXAMPLES), EXAMPLES, classifier.answers(SENTENCES), strict=True
    ):
        assert found.explained == example.output
        assert found.prediction == answer.text
        assert found.probability == pytest.approx(answer.probability)
        assert set(found.probabilities or ()) == set(LABELS)


def test_the_predicted_answer_can_be_explained_instead(classifier: Adapter) -> None:
    plain = [AttributionExample(input=text) for text in SENTENCES]
    for found in attribute(classifier, plain, target="predicted"):
        assert found.explained == found.prediction


def test_an_open_task_is_answered_freely(seq2seq: Adapter) -> None:
    found = attribute(seq2seq, [AttributionExample(input=SENTENCES[0])], target="predicted")[0]
    assert found.probabilities is None
    assert found.explained == found.prediction == seq2seq.generate(SENTENCES[:1])[0][0]


def test_choices_of_a_row_are_its_closed_set(causal: Adapter) -> None:
    example = AttributionExample(input=SENTENCES[0], output="the music", choices=("the music", "the plot"))
    found = attribute(causal, [example], labels=LABELS)[0]
    assert set(found.probabilities or ()) == {"the music", "the plot"}


@pytest.mark.parametrize(
    ("example", "labels", "param", "words"),
    [
        (AttributionExample(input="x"), None, "examples[1].output", "is missing"),
        (AttributionExample(input="x", output="joyful"), None, "examples[1].output", "one of 'negative', 'neutral'"),
        (AttributionExample(input="x", output="c", choices=("a", "b")), None, "examples[1].output", "one of 'a', 'b'"),
        (AttributionExample(input="x", output="neutral"), LABELS[::2], "examples[1].output", "one of 'negative', 'pos"),
    ],
)
def test_an_impossible_gold_target_is_named(
    classifier: Adapter, example: AttributionExample, labels: tuple[str, ...] | None, param: str, words: str
) -> None:
    first = AttributionExample(input="fine", output="positive")
    with pytest.raises(InvalidRequest, match=words) as caught:
        attribute(classifier, [first, example], labels=labels)
    assert caught.value.param == param


def test_an_impossible_target_is_refused_before_the_model_works(classifier: Adapter) -> None:
    def never(*_: Any) -> Tensor:
        raise AssertionError("the method ran")

    with pytest.raises(InvalidRequest):
        attribute(classifier, [*EXAMPLES, AttributionExample(input="x")], method=never)


def test_unknown_names_are_refused(classifier: Adapter) -> None:
    with pytest.raises(UnknownName) as caught:
        attribute(classifier, EXAMPLES, method="lime")
    assert caught.value.param == "method"
    with pytest.raises(UnknownName) as caught:
        attribute(classifier, EXAMPLES, target="silver")  # type: ignore[arg-type]
    assert caught.value.param == "target"


def test_no_examples_is_no_error(classifier: Adapter) -> None:
    assert attribute(classifier, []) == []


def test_a_method_with_settings_is_passed_as_an_object(classifier: Adapter) -> None:
    few, many, default = (
        [word.score for word in attribute(classifier, EXAMPLES[:1], method=method)[0].words]
        for method in (IntegratedGradients(n_steps=2), IntegratedGradients(n_steps=20), "integrated_gradients")
    )
    assert many == pytest.approx(default)
    assert few != pytest.approx(many, rel=1e-6)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers_are_an_error(classifier: Adapter, poison: float) -> None:
    def broken(adapter: Adapter, batch: Batch) -> Tensor:
        scores = Saliency()(adapter, batch)
        scores[0, 2] = poison
        return scores

    with pytest.raises(ModelError, match="not finite"):
        attribute(classifier, EXAMPLES, method=broken)


def test_weights_that_are_no_numbers_are_an_error(tmp_path: Path) -> None:
    broken = load_adapter(str(tiny_classifier(tmp_path)))
    broken.model.head.bias.data.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"examples\[\d+\]: the model's numbers are not finite"):
        attribute(broken, EXAMPLES)


def out_of_memory_above(rows: int) -> Callable[[Adapter, Batch], Tensor]:
    def limited(adapter: Adapter, batch: Batch) -> Tensor:
        if len(batch.ids) > rows:
            raise torch.OutOfMemoryError("tried to allocate too much")
        return Saliency()(adapter, batch)

    return limited


def test_a_batch_that_does_not_fit_into_memory_is_halved(classifier: Adapter) -> None:
    expected = attribute(classifier, EXAMPLES)
    found = attribute(classifier, EXAMPLES, method=out_of_memory_above(2))
    for one, other in zip(found, expected, strict=True):
        assert [word.score for word in one.words] == pytest.approx([word.score for word in other.words], rel=1e-4)


def test_one_text_that_does_not_fit_is_named(classifier: Adapter) -> None:
    with pytest.raises(ModelError, match="do not fit into the device's memory") as caught:
        attribute(classifier, EXAMPLES, method=out_of_memory_above(0), field="inputs")
    assert str(caught.value.param).startswith("inputs[")


def test_batches_keep_to_the_token_budget(classifier: Adapter) -> None:
    seen: list[tuple[int, int]] = []

    def watching(adapter: Adapter, batch: Batch) -> Tensor:
        seen.append(tuple(batch.ids.shape))  # type: ignore[arg-type]
        return Saliency()(adapter, batch)

    attribute(classifier, EXAMPLES, method=watching, max_padded_tokens=100)
    assert len(seen) > 3
    assert all(rows * width <= 100 or rows == 1 for rows, width in seen)
    assert sum(rows for rows, _ in seen) == len(EXAMPLES)


def test_in_float32_a_batch_explains_as_one_by_one(classifier: Adapter, seq2seq: Adapter, causal: Adapter) -> None:
    for adapter in (classifier, seq2seq, causal):
        together = attribute(adapter, EXAMPLES, labels=LABELS)
        for example, found in zip(EXAMPLES, together, strict=True):
            alone = attribute(adapter, [example], labels=LABELS)[0]
            assert [w.score for w in found.words] == pytest.approx([w.score for w in alone.words], rel=1e-4)
            assert [w.start for w in found.rationale] == [w.start for w in alone.rationale]


def test_a_text_without_words_has_no_rationale(classifier: Adapter) -> None:
    found = attribute(classifier, [AttributionExample(input=" ?! ", output="neutral")])[0]
    assert found.words == found.rationale == ()
    assert found.tokens > 0
