from __future__ import annotations

import pytest

from understudy.attribution.aggregate import word_scores

#       0123456789012
TEXT = "don't stop it"
WORDS = [(0, 5), (6, 10), (11, 13)]


def test_a_word_scores_the_sum_of_its_tokens() -> None:
    assert word_scores(WORDS, [(0, 3), (3, 4), (4, 5), (5, 10), (11, 13)], [1, 2, 4, 8, 16]) == [7, 8, 16]


def test_a_leading_space_takes_no_share() -> None:
    assert word_scores(WORDS, [(0, 5), (5, 10), (10, 13)], [1, 2, 4]) == [1, 2, 4]


def test_a_token_across_words_is_shared_by_characters() -> None:
    assert word_scores(WORDS, [(3, 10)], [6.0]) == pytest.approx([2, 4, 0])
    assert word_scores(WORDS, [(0, 13)], [11.0]) == pytest.approx([5, 4, 2])


def test_tokens_without_a_span_and_between_words_count_nowhere() -> None:
    assert word_scores(WORDS, [None, (5, 6), (0, 5), None], [100, 100, 1, 100]) == [1, 0, 0]


def test_tokens_with_one_span_all_count() -> None:
    """The bytes of an emoji, or two characters that a tokenizer normalises from one."""
    assert word_scores([(0, 1)], [(0, 1), (0, 1), (0, 1)], [1, 2, 3]) == [6]


def test_no_words_is_no_error() -> None:
    assert word_scores([], [(0, 3), None], [1, 2]) == []
