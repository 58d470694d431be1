"""Words that a student wrote, found again in the text it read."""

from __future__ import annotations

import pytest

from understudy.serving.reasons import match_words


def matched(text: str, written: str, most: int = 100) -> tuple[list[tuple[int, str]], int]:
    words, dropped = match_words(text, written, 0.5, most)
    for word in words:
        assert text[word.start : word.end] == word.text
        assert word.score == 0.5
    return [(word.start, word.text) for word in words], dropped


@pytest.mark.parametrize(
    ("text", "written", "words", "dropped"),
    [
        ("the cat sat", "cat sat", [(4, "cat"), (8, "sat")], 0),
        ("the cat sat", "sat cat", [(4, "cat"), (8, "sat")], 0),
        ("the cat sat", "dog cat bird", [(4, "cat")], 2),
        ("the cat sat", "", [], 0),
        ("the cat sat", "... !", [], 0),
        ("The CAT", "the cat", [(0, "The"), (4, "CAT")], 0),
        ("not bad, not good", "not not", [(0, "not"), (9, "not")], 0),
        ("not bad, not good", "not not not", [(0, "not"), (9, "not")], 1),
        ("not bad, not good", "bad not", [(4, "bad"), (9, "not")], 0),
        ("catalog", "cat", [], 1),
        ("the addr_spec, don't", "addr_spec don't", [(4, "addr_spec"), (15, "don't")], 0),
        ("\ufb01ne caf\u00e9", "fine cafe\u0301", [(0, "\ufb01ne"), (4, "caf\u00e9")], 0),
    ],
)
def test_written_words_become_spans_in_reading_order(
    text: str, written: str, words: list[tuple[int, str]], dropped: int
) -> None:
    assert matched(text, written) == (words, dropped)


@pytest.mark.parametrize(
    ("most", "words", "dropped"),
    [
        (1, ["cat"], 1),
        (2, ["cat", "sat"], 2),
        (3, ["cat", "sat", "mat"], 2),
        (9, ["cat", "sat", "mat"], 3),
    ],
)
def test_of_much_that_is_written_the_first_words_are_named_and_the_others_are_not_counted(
    most: int, words: list[str], dropped: int
) -> None:
    found, lacking = matched("the cat sat on the mat", "dog cat bird sat mat fish", most)
    assert ([word for _, word in found], lacking) == (words, dropped)
