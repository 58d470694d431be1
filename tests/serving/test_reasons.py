"""Words that a student wrote, found again in the text it read."""

from __future__ import annotations

import pytest

from understudy.serving.reasons import match_words


def matched(text: str, written: str) -> tuple[list[tuple[int, str]], int]:
    words, dropped = match_words(text, written, 0.5)
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
