"""Shares with known answers."""

from __future__ import annotations

from itertools import combinations

import pytest

from understudy.evaluation.metrics import baseline, chance_of_a_hit, correctness, wilson
from understudy.schemas import Example, TaskSpec

LABELS = TaskSpec(kind="classification", labels=("a", "b"))


def _examples(*outputs: str, choices: tuple[str, ...] | None = None) -> list[Example]:
    return [Example(id=str(i), input="text", output=output, choices=choices) for i, output in enumerate(outputs)]


def test_wilson_agrees_with_the_published_example() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20 and 1 of 29.
    for right, total, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718)]:
        assert wilson(right, total) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert wilson(0, 20) == (pytest.approx(0), pytest.approx(0.1611, abs=1e-4))


def test_wilson_of_nothing_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_label_must_match_exactly() -> None:
    assert correctness(LABELS, ["a", "A", "a "], _examples("a", "a", "a")) == [True, False, False]


def test_free_text_may_differ_in_space_and_case() -> None:
    assert correctness(TaskSpec(), ["The  answer\n", "the answers"], _examples("the answer", "the answer")) == [
        True,
        False,
    ]


def test_baseline_of_labels_is_the_commonest_training_label() -> None:
    assert baseline(LABELS, ["b", "b", "a"], _examples("b", "a", "a", "a")) == ("always 'b'", 0.25)


def test_baseline_tie_is_decided_by_name_and_not_by_order() -> None:
    assert baseline(LABELS, ["b", "a"], _examples("a"))[0] == baseline(LABELS, ["a", "b"], _examples("a"))[0]


def test_baseline_of_choices_is_chance() -> None:
    rows = _examples("x", "y", choices=("x", "y", "z", "w"))
    assert baseline(TaskSpec(kind="choice"), ["x"], rows) == ("a random one of the choices", 0.25)


@pytest.mark.parametrize(("words", "answers", "drawn"), [(7, 2, 3), (5, 5, 1), (5, 0, 3), (3, 1, 9)])
def test_chance_of_a_hit_equals_counting_every_draw(words: int, answers: int, drawn: int) -> None:
    draws = list(combinations(range(words), min(drawn, words)))
    hits = sum(any(word < answers for word in draw) for draw in draws)
    assert chance_of_a_hit(words, answers, drawn) == pytest.approx(hits / len(draws))
