from __future__ import annotations

import time
from typing import Any

import pytest

from understudy.attribution.rationale import by_score, part_of, select, top_words
from understudy.attribution.stop_words import STOP_WORDS
from understudy.attribution.words import word_spans
from understudy.schemas import Selection, Word


def ranked(*scores: float) -> list[Word]:
    return [Word(text=f"w{i}", start=3 * i, end=3 * i + 2, score=score) for i, score in enumerate(scores)]


def scored(text: str, *scores: float) -> list[Word]:
    """The words and the punctuation of a text."""
    return [
        Word(text=text[start:end], start=start, end=end, score=score)
        for (start, end), score in zip(word_spans(text, punctuation=True), scores, strict=True)
    ]


def top(scores: tuple[float, ...], k: int) -> list[str]:
    return [word.text for word in top_words(ranked(*scores), k)]


def chosen(words: list[Word], **selection: Any) -> list[str]:
    return [word.text for word in select(words, Selection(**selection))]


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


@pytest.mark.parametrize("scores", [(1, 9, 2, 8, 3), (0, 2, -3, 0), (-3, -1, 0), (5, 5, 5), ()])
def test_without_more_being_asked_the_top_words_are_selected(scores: tuple[float, ...]) -> None:
    assert select(ranked(*scores), Selection(top_k=2)) == top_words(ranked(*scores), 2)


@pytest.mark.parametrize(
    ("share", "words", "expected"),
    [(0.2, 5, 1), (0.2, 10, 2), (0.2, 11, 3), (0.01, 3, 1), (1.0, 4, 4), (0.07, 100, 7), (0.5, 0, 0)],
)
def test_a_share_of_the_words_is_rounded_up(share: float, words: int, expected: int) -> None:
    assert part_of(share, words) == expected


def test_a_share_of_the_best_words_is_selected() -> None:
    words = ranked(1, 9, 2, 8, 3, 7, 4, 6, 5, 10)
    assert chosen(words, select="top_share", top_share=0.3) == ["w1", "w3", "w9"]
    assert len(chosen(words, select="top_share", top_share=1.0)) == 10  # top_k bounds nothing here


def test_a_share_is_one_of_all_words_those_ignored_too() -> None:
    words = scored("the film is a slow joke", 9, 1, 8, 7, 2, 3)
    assert chosen(words, select="top_share", top_share=0.5, ignore=("stop_words",)) == ["film", "slow", "joke"]


def test_words_that_speak_for_nothing_fill_up_no_share() -> None:
    assert chosen(ranked(0, 3, -1, 2), select="top_share", top_share=1.0) == ["w1", "w3"]


def test_a_threshold_is_a_share_of_the_best_score() -> None:
    words = ranked(10, 5, 4.9, -20, 5.1, 0, 9)
    assert chosen(words, select="threshold", threshold=0.5) == ["w0", "w1", "w4", "w6"]
    assert chosen(words, select="threshold", threshold=1.0) == ["w0"]
    assert chosen(ranked(*[1.0] * 9), select="threshold", top_k=1) == [f"w{i}" for i in range(9)]


@pytest.mark.parametrize(("scores", "best"), [((-3, -1, -2), "w1"), ((-1, 0, 0), "w1"), ((0, 0), "w0")])
def test_where_nothing_speaks_the_best_word_passes_the_threshold(scores: tuple[float, ...], best: str) -> None:
    assert chosen(ranked(*scores), select="threshold") == [best]


def test_a_span_is_the_best_neighbours() -> None:
    assert chosen(ranked(9, -5, 4, 0, 5, 1), select="span", top_k=3) == ["w2", "w3", "w4"]
    assert chosen(ranked(1, 1, 1, 1), select="span", top_k=2) == ["w0", "w1"]
    assert chosen(ranked(0.1, 0.2, 0.3, 0.3, 0.2, 0.1), select="span", top_k=3) == ["w1", "w2", "w3"]
    assert chosen(ranked(1, 2), select="span", top_k=5) == ["w0", "w1"]
    assert chosen(ranked(-3, -1, -2, -5), select="span", top_k=2) == ["w1", "w2"]


def test_ignored_words_do_not_part_neighbours() -> None:
    words = scored("bad joke about the rain", 1, 5, 9, 9, 4)
    assert chosen(words, select="span", top_k=2, ignore=("stop_words",)) == ["joke", "rain"]


@pytest.mark.parametrize("select", ["top_k", "top_share", "threshold", "span"])
def test_a_text_without_words_has_no_rationale(select: str) -> None:
    assert chosen([], select=select, ignore=("stop_words", "punctuation")) == []


def test_punctuation_and_stop_words_are_left_out_on_request() -> None:
    words = scored("It is, not good!", 8, 7, 9, 1, 2, 10)
    assert chosen(words, ignore=()) == ["It", "is", ",", "good", "!"]
    assert chosen(words, ignore=("punctuation",)) == ["It", "is", "not", "good"]
    assert chosen(words, ignore=("stop_words",)) == [",", "not", "good", "!"]
    assert chosen(words, ignore=("stop_words", "punctuation")) == ["not", "good"]
    assert chosen(words, ignore=("punctuation", "stop_words")) == ["not", "good"]


def test_a_text_of_nothing_but_ignored_words_still_has_a_rationale() -> None:
    both = ("stop_words", "punctuation")
    assert chosen(scored("It is.", 1, 2, 9), ignore=both) == ["It", "is"]  # stop words before punctuation
    assert chosen(scored("?!", 1, 2), ignore=both) == ["?", "!"]
    assert chosen(scored("Who am I?", 1, 2, 3, 4), top_k=1, ignore=("stop_words",)) == ["?"]


@pytest.mark.parametrize("word", ["the", "The", "THE", "It's", "it’s", "Ourselves", "FROM"])
def test_stop_words_are_known_in_any_case_and_with_any_apostrophe(word: str) -> None:
    words = [Word(text=word, start=0, end=len(word), score=9), Word(text="film", start=20, end=24, score=1)]
    assert chosen(words, ignore=("stop_words",)) == ["film"]


@pytest.mark.parametrize(
    "decisive",
    [
        "no not never nor neither none nobody nothing nowhere without cannot can't don't isn't won't ain't n't",
        "all any both each every either few fewer many more most much less least only other same several some such",
        "than too very enough almost hardly barely just even",
        "but although though however yet unless except despite against",
        "above below under over before after between off out up down",
        "one two good bad",
    ],
)
def test_words_that_decide_answers_are_no_stop_words(decisive: str) -> None:
    assert STOP_WORDS.isdisjoint(decisive.split())


def test_stop_words_are_whole_words_as_texts_are_split() -> None:
    assert all(word == word.casefold() and word_spans(word) == [(0, len(word))] for word in STOP_WORDS)
    assert {"a", "the", "i", "it", "they", "of", "to", "with", "and", "or", "if", "is", "was", "have"} <= STOP_WORDS


def test_words_are_ranked_from_the_best_one_down() -> None:
    assert [word.text for word in by_score(ranked(1, -2, 3, 1))] == ["w2", "w0", "w3", "w1"]


def test_the_longest_text_is_searched_in_no_time() -> None:
    words = ranked(*[float(i % 7) for i in range(16_000)])
    started = time.process_time()
    assert len(select(words, Selection(select="span", top_k=100))) == 100
    assert time.process_time() - started < 2
