from __future__ import annotations

import time
from itertools import pairwise

import pytest

from understudy.attribution.words import word_spans


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in word_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The addr_spec, please.", ["The", "addr_spec", "please"]),
        ("It doesn't, can’t!", ["It", "doesn't", "can’t"]),
        ("import os.path", ["import", "os.path"]),
        ("costs 3.14 or 1,000", ["costs", "3.14", "or", "1,000"]),
        ("你好 世界", ["你", "好", "世", "界"]),
        ("カタカナ", ["カタカナ"]),
        ("good 👩‍👩‍👧 🇩🇪 ❤️ 1️⃣", ["good", "👩‍👩‍👧", "🇩🇪", "❤️", "1️⃣"]),
        ("e\u0301tude", ["e\u0301tude"]),
        ("שלום عالم", ["שלום", "عالم"]),
        ("a\ud800b", ["a", "b"]),
        ("C++ #tag @user :)", ["C", "tag", "user"]),
        ("... -- ?! \t\n", []),
        ("", []),
    ],
    ids=ascii,
)
def test_words_are_those_of_unicode(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_spans_are_in_order_and_apart() -> None:
    spans = word_spans("One, two; three: 四五 👍 six-seven")
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_the_longest_text_is_split_in_no_time() -> None:
    started = time.process_time()
    assert len(word_spans("word, " * 16_000)) == 16_000
    assert len(word_spans("\u0301" * 100_000)) == 0
    assert time.process_time() - started < 5
