"""Accuracy and loss on the validation rows, for closed and open tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from understudy.errors import InvalidRequest
from understudy.models.load import load_adapter
from understudy.schemas import Example, TaskSpec
from understudy.testing import SENTENCES, tiny_causal, tiny_classifier, tiny_seq2seq
from understudy.training.validation import MAX_SCORED, MAX_WRITTEN, validate, validation_rows


def examples(outputs: Sequence[str], choices: tuple[str, ...] | None = None) -> list[Example]:
    return [
        Example(id=str(i), input=text, output=output, choices=choices)
        for i, (text, output) in enumerate(zip(SENTENCES, outputs, strict=False))
    ]


def test_a_classifier_is_right_where_its_likeliest_label_is(tmp_path: Path) -> None:
    adapter = load_adapter(str(tiny_classifier(tmp_path)), device="cpu")
    answers = adapter.answers(SENTENCES)
    gold = [answer.text for answer in answers[:8]] + [
        "neutral" if a.text == "negative" else "negative" for a in answers[8:]
    ]
    found = validate(adapter, examples(gold))
    assert found.accuracy == 8 / 12
    by_hand = [-math.log((answer.probabilities or {})[label]) for answer, label in zip(answers, gold, strict=True)]
    assert found.loss == pytest.approx(sum(by_hand) / 12)


def test_a_choice_is_among_the_rows_own(tmp_path: Path) -> None:
    adapter = load_adapter(str(tiny_seq2seq(tmp_path)), task=TaskSpec(kind="choice"), device="cpu")
    rows = examples(["rain"] * 12, choices=("rain", "music"))
    expected = [answer.text == "rain" for answer in adapter.answers(SENTENCES, [("rain", "music")] * 12)]
    assert validate(adapter, rows).accuracy == sum(expected) / 12


def test_an_open_answer_is_what_the_model_writes(tmp_path: Path) -> None:
    adapter = load_adapter(str(tiny_seq2seq(tmp_path)), device="cpu", max_tokens=200)
    written = [one.text for one in adapter.generate(SENTENCES)]
    rows = examples([f" {text.upper()}" if i % 3 else "something else" for i, text in enumerate(written)])
    found = validate(adapter, rows)
    assert found.accuracy == 8 / 12
    gold = adapter.log_likelihoods([row.input for row in rows], [[row.output] for row in rows])
    assert found.loss == pytest.approx(-sum(row[0] for row in gold) / 12)


def test_a_gold_answer_that_is_no_candidate_is_wrong_and_finite(tmp_path: Path) -> None:
    adapter = load_adapter(str(tiny_classifier(tmp_path)), device="cpu")
    found = validate(adapter, examples(["never heard of"] * 3))
    assert found.accuracy == 0
    assert math.isfinite(found.loss)


def test_many_rows_are_capped_and_the_same_ones_are_kept() -> None:
    rows = [Example(id=str(i), input=f"text {i}", output="a") for i in range(MAX_SCORED + 50)]
    kept = validation_rows(rows, "classification")
    assert len(kept) == MAX_SCORED
    assert {row.id for row in kept} == {row.id for row in validation_rows(rows[::-1], "classification")}
    assert len(validation_rows(rows, "generation")) == MAX_WRITTEN


def test_an_empty_validation_split_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="validation split is empty"):
        validation_rows([], "classification")


@pytest.mark.parametrize("tiny", [tiny_seq2seq, tiny_causal])
def test_an_answer_that_does_not_fit_is_wrong_at_a_bounded_loss(tmp_path: Path, tiny: Callable[[Path], Path]) -> None:
    adapter = load_adapter(str(tiny(tmp_path)), device="cpu")
    rows = examples(["rain"] * 3)
    long = rows[0].model_copy(update={"output": "rain " * 500})
    plain, found = validate(adapter, rows), validate(adapter, [*rows, long])
    assert found.accuracy == 0.75 * plain.accuracy
    assert found.loss == pytest.approx((3 * plain.loss - math.log(1e-12)) / 4)
    assert validate(adapter, [long]).loss == pytest.approx(-math.log(1e-12))


def test_a_choice_that_does_not_fit_makes_its_row_wrong(tmp_path: Path) -> None:
    adapter = load_adapter(str(tiny_seq2seq(tmp_path)), task=TaskSpec(kind="choice"), device="cpu")
    rows = examples(["rain"] * 2, choices=("rain", "music " * 500))
    assert validate(adapter, rows).accuracy == 0
