from __future__ import annotations

from understudy.attribution.rationale import top_words
from understudy.schemas import Word


def ranked(*scores: float) -> list[Word]:
    return [Word(text=f"w{i}", start=3 * i, end=3 * i + 2, score=score) for i, score in enumerate(scores)]


def top(scores: tuple[float, ...], k: int) -> list[str]:
    return [word.text for word in top_words(ranked(*scores), k)]


def test_the_best_words_come_in_reading_order() -> None:
    assert top((1, 9, 2, 8, 3), 3) == ["w1", "w3", "w4"]


def test_a_tie_goes_to_the_earlier_word() -> None:
    assert top((1, 5, 5, 5), 2) == ["w1", "w2"]


def test_there_are_never_more_than_the_words_there_are() -> None:
    assert top((1, 2), 5) == ["w0", "w1"]
    assert top((), 5) == []


def test_words_that_speak_for_nothing_are_left_out() -> None:
    assert top((0, 2, -3, 0), 3) == ["w1"]


def test_words_that_speak_for_nothing_are_better_than_none() -> None:
    assert top((0, 0, 0), 2) == ["w0", "w1"]
    assert top((-3, -1, 0), 2) == ["w1", "w2"]
