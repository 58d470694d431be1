from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from understudy.attribution import attribute as module
from understudy.attribution.attribute import as_prediction, attribute
from understudy.attribution.methods import Saliency
from understudy.errors import InvalidRequest, ModelError, UnknownName
from understudy.models.base import Adapter, Batch
from understudy.models.load import load_adapter
from understudy.models.passes import out_of_memory
from understudy.schemas import Attribution, AttributionExample, AttributionOptions
from understudy.testing import LABELS, SENTENCES, TARGETS, tiny_classifier

EXAMPLES = [AttributionExample(input=text, output=gold) for text, gold in zip(SENTENCES, TARGETS, strict=True)]

Work = Callable[[Adapter, Batch], Tensor]


class Stub(Saliency):
    """Saliency whose work a test has replaced."""

    work: Work = lambda adapter, batch: Saliency()(adapter, batch)

    def __call__(self, adapter: Adapter, batch: Batch) -> Tensor:
        return type(self).work(adapter, batch)


@pytest.fixture
def working(monkeypatch: pytest.MonkeyPatch) -> Callable[[Work], None]:
    """Replace the work of whatever method is asked for."""

    def use(work: Work) -> None:
        monkeypatch.setattr(Stub, "work", staticmethod(work))
        monkeypatch.setattr(module, "make_method", lambda *_: Stub())

    return use


def explain(adapter: Adapter, examples: Sequence[AttributionExample] = EXAMPLES, **options: Any) -> list[Attribution]:
    return attribute(adapter, examples, AttributionOptions(**{"target": "gold", **options}))


def scores(found: Attribution) -> list[float]:
    return [word.score for word in found.words]


def test_the_prediction_is_reported_beside_the_gold_target(classifier: Adapter) -> None:
    for found, example, answer in zip(explain(classifier), EXAMPLES, classifier.answers(SENTENCES), strict=True):
        assert found.explained == example.output
        assert found.prediction == answer.text
        assert found.probability == pytest.approx(answer.probability)
        assert set(found.probabilities or ()) == set(LABELS)


def test_the_predicted_answer_can_be_explained_instead(classifier: Adapter) -> None:
    plain = [AttributionExample(input=text) for text in SENTENCES]
    for found in explain(classifier, plain, target="predicted"):
        assert found.explained == found.prediction


def test_an_open_task_is_answered_freely(seq2seq: Adapter) -> None:
    found = explain(seq2seq, [AttributionExample(input=SENTENCES[0])], target="predicted")[0]
    assert found.probabilities is None
    (written,) = seq2seq.generate(SENTENCES[:1])
    assert (found.explained, found.prediction, found.unfinished) == (written.text, written.text, written.unfinished)


def test_an_answer_that_broke_off_is_told_apart(seq2seq: Adapter) -> None:
    examples = [AttributionExample(input=SENTENCES[0], output="rain")]
    (cut,) = explain(seq2seq.with_answer_tokens(2), examples, target="predicted")
    assert cut.unfinished
    assert as_prediction(cut).unfinished
    assert not explain(seq2seq.with_answer_tokens(2), examples, target="gold", predict=False)[0].unfinished


def test_choices_of_a_row_are_its_closed_set(causal: Adapter) -> None:
    example = AttributionExample(input=SENTENCES[0], output="the music", choices=("the music", "the plot"))
    found = explain(causal, [example], labels=LABELS)[0]
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
        explain(classifier, [first, example], labels=labels)
    assert caught.value.param == param


def test_an_impossible_target_is_refused_before_the_model_works(
    classifier: Adapter, working: Callable[[Work], None]
) -> None:
    def never(*_: Any) -> Tensor:
        raise AssertionError("the method ran")

    working(never)
    with pytest.raises(InvalidRequest):
        explain(classifier, [*EXAMPLES, AttributionExample(input="x")])


def test_an_unknown_method_is_refused(classifier: Adapter) -> None:
    with pytest.raises(UnknownName) as caught:
        explain(classifier, method="lime")
    assert caught.value.param == "method"


@pytest.mark.parametrize(
    ("method", "settings", "param", "words"),
    [
        ("saliency", {"norm": "l3"}, "settings.norm", "'l1' or 'l2'"),
        ("saliency", {"n_steps": 3}, "settings.n_steps", r"no such setting \(it has norm\)"),
        ("integrated_gradients", {"n_steps": 0}, "settings.n_steps", "greater than or equal to 1"),
        ("input_x_gradient", {"norm": "l1"}, "settings.norm", "it has none"),
    ],
)
def test_a_setting_that_a_method_does_not_take_is_named(
    classifier: Adapter, method: str, settings: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        explain(classifier, method=method, settings=settings)
    assert caught.value.param == param


def test_settings_reach_the_method(classifier: Adapter) -> None:
    few, many, default = (
        scores(explain(classifier, EXAMPLES[:1], method="integrated_gradients", settings=settings)[0])
        for settings in ({"n_steps": 2}, {"n_steps": 20}, {})
    )
    assert many == pytest.approx(default)
    assert few != pytest.approx(many, rel=1e-6)


def test_no_examples_is_no_error(classifier: Adapter) -> None:
    assert explain(classifier, []) == []


def test_one_answer_can_be_explained_for_all(classifier: Adapter) -> None:
    named = explain(classifier, [AttributionExample(input=text) for text in SENTENCES], target="label", label="neutral")
    gold = explain(classifier, [AttributionExample(input=text, output="neutral") for text in SENTENCES])
    assert named == gold
    assert {found.explained for found in named} == {"neutral"}


def test_a_contrast_is_the_difference_of_two_maps(classifier: Adapter, seq2seq: Adapter, causal: Adapter) -> None:
    """Input x gradient is linear in the score."""
    for adapter in (classifier, seq2seq, causal):
        asked = {"method": "input_x_gradient", "target": "label", "labels": LABELS}
        one, other = (explain(adapter, label=label, **asked) for label in ("positive", "negative"))
        both = explain(adapter, label="positive", against="negative", **asked)
        for difference, a, b in zip(both, one, other, strict=True):
            expected = [x - y for x, y in zip(scores(a), scores(b), strict=True)]
            assert scores(difference) == pytest.approx(expected, rel=1e-3, abs=1e-6)
            assert (difference.explained, difference.against) == ("positive", "negative")


def test_an_examples_own_contrast_goes_first(classifier: Adapter) -> None:
    own = [AttributionExample(input="fine", output="positive", against="neutral"), EXAMPLES[0]]
    assert [found.against for found in explain(classifier, own, against="negative")] == ["neutral", "negative"]


@pytest.mark.parametrize(
    ("examples", "options", "param", "words"),
    [
        (
            [AttributionExample(input="x", output="neutral", against="neutral")],
            {},
            "examples[0].against",
            "name another",
        ),
        ([AttributionExample(input="x", output="neutral")], {"against": "happy"}, "against", "one of 'negative'"),
        (
            [AttributionExample(input="x", output="neutral", against="positive"), EXAMPLES[0]],
            {},
            "examples[1].against",
            "is missing",
        ),
        ([EXAMPLES[0]], {"against": "neutral", "rows": True}, "rows", "ask for one of them"),
        ([EXAMPLES[0]], {"method": "first_words", "rows": True}, "rows", "no rows"),
        ([EXAMPLES[0]], {"target": "label", "label": "happy"}, "label", "one of 'negative'"),
    ],
)
def test_what_cannot_be_explained_is_named(
    classifier: Adapter, examples: list[AttributionExample], options: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        explain(classifier, examples, **options)
    assert caught.value.param == param


def test_there_is_a_row_for_each_token_of_the_answer(seq2seq: Adapter, causal: Adapter, classifier: Adapter) -> None:
    """The map of the mean logit is the mean of the rows, where scores are linear in it."""
    for adapter in (seq2seq, causal, classifier):
        for found in explain(adapter, labels=LABELS, method="input_x_gradient", rows=True):
            assert found.rows
            assert "".join(row.token for row in found.rows).strip() == found.explained
            assert all(len(row.scores) == len(found.words) for row in found.rows)
            mean = [sum(column) / len(found.rows) for column in zip(*(row.scores for row in found.rows), strict=True)]
            assert scores(found) == pytest.approx(mean, rel=1e-3, abs=1e-6)


def test_the_models_own_answer_can_be_left_out(classifier: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = explain(classifier)
    monkeypatch.setattr(classifier, "answers", lambda *_: pytest.fail("the model was asked"))
    for found, one in zip(explain(classifier, predict=False), expected, strict=True):
        assert found.prediction is found.probability is found.probabilities is None
        assert (found.words, found.rationale) == (one.words, one.rationale)


def test_punctuation_is_a_word_where_it_is_wanted(classifier: Adapter) -> None:
    example = [AttributionExample(input="No, really!", output="negative")]
    assert [word.text for word in explain(classifier, example)[0].words] == ["No", "really"]
    assert [word.text for word in explain(classifier, example, ignore=[])[0].words] == ["No", ",", "really", "!"]


def test_stop_words_are_scored_and_not_named(classifier: Adapter) -> None:
    (found,) = explain(classifier, EXAMPLES[:1], ignore=["punctuation", "stop_words"], top_k=100)
    assert "the" in {word.text.lower() for word in found.words}
    assert "the" not in {word.text.lower() for word in found.rationale}


def test_tokens_become_words_as_asked(seq2seq: Adapter) -> None:
    """Never negative scores: the sum of a word is its L1 norm, and its mean is no more than its largest token."""
    by = {how: scores(explain(seq2seq, EXAMPLES[:1], aggregation=how)[0]) for how in ("sum", "mean", "max", "l1", "l2")}
    assert by["sum"] == pytest.approx(by["l1"])
    columns = zip(*(by[how] for how in ("mean", "max", "l2", "l1")), strict=True)
    assert all(mean <= most <= l2 <= l1 for mean, most, l2, l1 in columns)
    assert by["mean"] != pytest.approx(by["sum"])


def test_faithfulness_comes_with_completeness_where_it_is_promised(classifier: Adapter, causal: Adapter) -> None:
    for adapter in (classifier, causal):
        for found in explain(adapter, labels=LABELS, method="integrated_gradients", faithfulness=True):
            assert found.faithfulness is not None
            assert found.faithfulness.completeness_error == pytest.approx(0, abs=0.1)
        for found in explain(adapter, labels=LABELS, faithfulness=True):
            assert found.faithfulness is not None
            assert found.faithfulness.completeness_error is None
        assert all(found.faithfulness is None for found in explain(adapter, labels=LABELS))


def test_a_template_of_the_request_is_not_part_of_the_map(seq2seq: Adapter) -> None:
    plain, asked = (explain(seq2seq, EXAMPLES[:1], template=template)[0] for template in (None, "Judge this: {input}"))
    assert [word.text for word in asked.words] == [word.text for word in plain.words]
    assert asked.tokens > plain.tokens
    assert scores(asked) != pytest.approx(scores(plain), rel=1e-3)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers_are_an_error(
    classifier: Adapter, working: Callable[[Work], None], poison: float
) -> None:
    def broken(adapter: Adapter, batch: Batch) -> Tensor:
        scores = Saliency()(adapter, batch)
        scores[0, 2] = poison
        return scores

    working(broken)
    with pytest.raises(ModelError, match="not finite"):
        explain(classifier)


def test_weights_that_are_no_numbers_are_an_error(tmp_path: Path) -> None:
    broken = load_adapter(str(tiny_classifier(tmp_path)))
    broken.model.head.bias.data.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"examples\[\d+\]: the model's numbers are not finite"):
        explain(broken)


def out_of_memory_above(rows: int) -> Work:
    def limited(adapter: Adapter, batch: Batch) -> Tensor:
        if len(batch.ids) > rows:
            raise torch.OutOfMemoryError("tried to allocate too much")
        return Saliency()(adapter, batch)

    return limited


def test_a_batch_that_does_not_fit_into_memory_is_halved(classifier: Adapter, working: Callable[[Work], None]) -> None:
    expected = explain(classifier)
    working(out_of_memory_above(2))
    before = out_of_memory.value
    assert explain(classifier)
    assert out_of_memory.value > before
    for one, other in zip(explain(classifier), expected, strict=True):
        assert scores(one) == pytest.approx(scores(other), rel=1e-4)


def test_one_text_that_does_not_fit_is_named(classifier: Adapter, working: Callable[[Work], None]) -> None:
    working(out_of_memory_above(0))
    with pytest.raises(ModelError, match="do not fit into the device's memory") as caught:
        attribute(classifier, EXAMPLES, field="inputs")
    assert str(caught.value.param).startswith("inputs[")


def test_batches_keep_to_the_token_budget(classifier: Adapter, working: Callable[[Work], None]) -> None:
    seen: list[tuple[int, int]] = []

    def watching(adapter: Adapter, batch: Batch) -> Tensor:
        seen.append(tuple(batch.ids.shape))  # type: ignore[arg-type]
        return Saliency()(adapter, batch)

    working(watching)
    attribute(classifier, EXAMPLES, max_padded_tokens=100)
    assert len(seen) > 3
    assert all(rows * width <= 100 or rows == 1 for rows, width in seen)
    assert sum(rows for rows, _ in seen) == len(EXAMPLES)


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rows": True},
        {"against": "the plot"},
        {"method": "integrated_gradients", "settings": {"n_steps": 6}},
        {"method": "smooth_grad", "settings": {"n_samples": 6}},
        {"method": "occlusion"},
        {"method": "occlusion", "rows": True},
    ],
    ids=str,
)
def test_a_pass_has_no_more_logits_than_fit(
    kind: str, options: dict[str, Any], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short texts with long answers: by its texts alone all of them would share a pass."""
    adapter: Adapter = request.getfixturevalue(kind)
    examples = [
        AttributionExample(input=text[:20], output="the plot is thin " * long)
        for long, text in enumerate(SENTENCES[:6], 1)
    ]
    expected = explain(adapter, examples, predict=False, **options)
    table = adapter.model.get_output_embeddings()
    longest = max(adapter.answer_length(example.output or "") for example in examples)
    most = (longest + 10) * len(table.weight) * 3 // 2
    monkeypatch.setattr("understudy.models.writer.MAX_LOGITS", most)
    seen: list[int] = []
    hook = table.register_forward_hook(lambda _, __, logits: seen.append(logits.numel()))
    found = explain(adapter, examples, predict=False, **options)
    hook.remove()
    assert seen
    assert max(seen) <= most
    for one, other in zip(found, expected, strict=True):
        assert scores(one) == pytest.approx(scores(other), rel=1e-4, abs=1e-5)
        for row, same in zip(one.rows or (), other.rows or (), strict=True):
            assert row.scores == pytest.approx(same.scores, rel=1e-4, abs=1e-5)


def test_a_pass_is_planned_by_texts_and_answers(seq2seq: Adapter, working: Callable[[Work], None]) -> None:
    seen: list[int] = []

    def watching(adapter: Adapter, batch: Batch) -> Tensor:
        seen.append(len(batch.ids) * (batch.ids.shape[1] + batch.labels.shape[1]))
        return Saliency()(adapter, batch)

    working(watching)
    same = [AttributionExample(input="the plot", output="the plot is thin " * 5)] * 8
    options = AttributionOptions(target="gold", predict=False)
    attribute(seq2seq, same, options, max_padded_tokens=4 * len(seq2seq.tokenize(["the plot"])[0].ids))
    assert len(seen) == len(same)  # by the texts alone there would be two passes


def test_in_float32_a_batch_explains_as_one_by_one(classifier: Adapter, seq2seq: Adapter, causal: Adapter) -> None:
    for adapter in (classifier, seq2seq, causal):
        together = explain(adapter, labels=LABELS)
        for example, found in zip(EXAMPLES, together, strict=True):
            alone = explain(adapter, [example], labels=LABELS)[0]
            assert [w.score for w in found.words] == pytest.approx([w.score for w in alone.words], rel=1e-4)
            assert [w.start for w in found.rationale] == [w.start for w in alone.rationale]


def test_a_text_without_words_has_no_rationale(classifier: Adapter) -> None:
    found = explain(classifier, [AttributionExample(input=" ?! ", output="neutral")])[0]
    assert found.words == found.rationale == ()
    assert found.tokens > 0


@pytest.mark.parametrize("architecture", ["seq2seq", "causal"])
def test_the_probabilities_of_an_answers_tokens_are_those_of_the_answer(
    architecture: str, request: pytest.FixtureRequest
) -> None:
    """The witness is the likelihood by which answers are chosen: the product over the answer's own tokens."""
    adapter: Adapter = request.getfixturevalue(architecture)
    encoded = adapter.tokenize([one.input for one in EXAMPLES])
    size = len(adapter.tokenizer)
    every = adapter.token_probabilities(encoded, TARGETS, size)
    few = explain(adapter, token_probabilities=3)
    likelihoods = adapter.log_likelihoods(SENTENCES, [[target] for target in TARGETS])
    for whole, found, (expected,) in zip(every, few, likelihoods, strict=True):
        told = found.token_probabilities
        assert told is not None
        assert [place.token for place in told] == [place.token for place in whole]
        assert math.fsum(math.log(place.probabilities[place.token]) for place in whole) == pytest.approx(
            expected, rel=1e-4
        )
        for place, full in zip(told, whole, strict=True):
            assert list(place.probabilities.values()) == sorted(place.probabilities.values(), reverse=True)
            assert place.probabilities == pytest.approx(dict(list(full.probabilities.items())[:3]), rel=1e-4)
            assert place.rest + sum(place.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert explain(adapter, EXAMPLES[:1])[0].token_probabilities is None


def test_a_classifier_has_no_tokens_to_tell_of(classifier: Adapter) -> None:
    with pytest.raises(InvalidRequest, match="picks a label and writes no tokens") as caught:
        explain(classifier, token_probabilities=2)
    assert caught.value.param == "token_probabilities"
