from __future__ import annotations

import time
from itertools import pairwise

import pytest

from understudy.attribution.words import is_punctuation, word_spans


def words(text: str, *, punctuation: bool = False) -> list[str]:
    return [text[start:end] for start, end in word_spans(text, punctuation=punctuation)]


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
        ("👩🏾‍🚀👍🏽🇩🇪🇫🇷 x😀y", ["👩🏾‍🚀", "👍🏽", "🇩🇪", "🇫🇷", "x", "😀", "y"]),
        ("🏴󠁧󠁢󠁥󠁮󠁧󠁿🏳️‍🌈", ["🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🏳️‍🌈"]),
        ("n\u0303o a\u0302\u0323", ["n\u0303o", "a\u0302\u0323"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("שָׁלוֹם, עוֹלָם!", ["שָׁלוֹם", "עוֹלָם"]),
        ("\u202bمَرْحَبًا\u202c (2024)", ["\u202bمَرْحَبًا\u202c", "2024"]),
        ("สวัสดี ครับ", ["ส", "วั", "ส", "ดี", "ค", "รั", "บ"]),
        ("これはカタカナです。", ["こ", "れ", "は", "カタカナ", "で", "す"]),
        ("안녕하세요, 세계!", ["안녕하세요", "세계"]),
        ("rock 'n' roll, l’amour, O'Brien's", ["rock", "n", "roll", "l’amour", "O'Brien's"]),
        ("see https://a.example.com/b_c?d=1&e=f#g", ["see", "https", "a.example.com", "b_c", "d", "1", "e", "f", "g"]),
        ("me@example.com", ["me", "example.com"]),
        ("iPhone用のアプリv2.0", ["iPhone", "用", "の", "アプリ", "v2.0"]),
        ("русский中文English", ["русский", "中", "文", "English"]),
        ("½ Ⅷ x² ﬁn", ["½", "Ⅷ", "x", "²", "ﬁn"]),
        ("... -- ?! \t\n", []),
        ("", []),
    ],
    ids=ascii,
)
def test_words_are_those_of_unicode(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Wait, what?!", ["Wait", ",", "what", "?", "!"]),
        ("C++ is (not) £5...", ["C", "+", "+", "is", "(", "not", ")", "£", "5", ".", ".", "."]),
        ("好。👍 !", ["好", "。", "👍", "!"]),
        ("a\u00a0\u3000\u200bb\r\n\t\x00c", ["a", "b", "c"]),
        (" \n ", []),
    ],
    ids=ascii,
)
def test_on_request_every_piece_that_shows_is_a_word(text: str, expected: list[str]) -> None:
    assert words(text, punctuation=True) == expected


def test_punctuation_comes_beside_the_same_words() -> None:
    text = "“Well”—she said: “don't!” 🙂 (3.5 / 5) \ud800"
    pieces = words(text, punctuation=True)
    assert [piece for piece in pieces if not is_punctuation(piece)] == words(text)
    assert "".join(pieces) == text.replace(" ", "")


@pytest.mark.parametrize("punctuation", [False, True])
def test_spans_are_in_order_and_apart(punctuation: bool) -> None:
    spans = word_spans("One, two; three: 四五 👍 six-seven", punctuation=punctuation)
    assert all(start < end for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_the_longest_text_is_split_in_no_time() -> None:
    started = time.process_time()
    assert len(word_spans("word, " * 16_000)) == 16_000
    assert len(word_spans("\u0301" * 100_000)) == 0
    assert time.process_time() - started < 5
