from __future__ import annotations

import math
import random
import unicodedata
from pathlib import Path
from typing import Any, get_args

import pytest
from transformers import AutoTokenizer

from understudy.attribution.aggregate import Aggregation, word_scores
from understudy.attribution.words import word_spans
from understudy.models.scratch import train_tokenizer
from understudy.models.text import Template, tokenize

#       0123456789012
TEXT = "don't stop it"
WORDS = [(0, 5), (6, 10), (11, 13)]

HOW = get_args(Aggregation)


def test_a_word_scores_the_sum_of_its_tokens() -> None:
    assert word_scores(WORDS, [(0, 3), (3, 4), (4, 5), (5, 10), (11, 13)], [1, 2, 4, 8, 16]) == [7, 8, 16]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("sum", [1 - 2 - 4, 3 + 4, -5]),
        ("mean", [(1 - 2 - 4) / 3, (3 + 4) / 2, -5]),
        ("max", [-4, 4, -5]),
        ("l1", [7, 7, 5]),
        ("l2", [math.sqrt(21), 5, 5]),
    ],
)
def test_there_are_five_ways_to_make_a_words_score(how: Aggregation, expected: list[float]) -> None:
    tokens = [(0, 3), (3, 4), (4, 5), (6, 8), (8, 10), (11, 13)]
    assert word_scores(WORDS, tokens, [1, -2, -4, 3, 4, -5], how) == pytest.approx(expected)


def test_of_two_extremes_the_higher_one_counts() -> None:
    for scores in ([2, -2], [-2, 2]):
        assert word_scores([(0, 4)], [(0, 2), (2, 4)], scores, "max") == [2]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("sum", [3 - 2, -4, 0]),
        ("mean", [(3 - 2) / (1 + 1 / 3), -6, 0]),  # one token and a third of another
        ("max", [3, -4, 0]),
        ("l1", [5, 4, 0]),
        ("l2", [math.sqrt(9 + 4), 4, 0]),
    ],
)
def test_a_token_across_words_is_shared_however_scores_are_made(how: Aggregation, expected: list[float]) -> None:
    assert word_scores(WORDS, [(0, 3), (3, 10)], [3, -6], how) == pytest.approx(expected)


def test_a_leading_space_takes_no_share() -> None:
    assert word_scores(WORDS, [(0, 5), (5, 10), (10, 13)], [1, 2, 4]) == [1, 2, 4]


def test_a_token_across_words_is_shared_by_characters() -> None:
    assert word_scores(WORDS, [(3, 10)], [6.0]) == pytest.approx([2, 4, 0])
    assert word_scores(WORDS, [(0, 13)], [11.0]) == pytest.approx([5, 4, 2])


@pytest.mark.parametrize("how", HOW)
def test_tokens_without_a_span_and_between_words_count_nowhere(how: Aggregation) -> None:
    assert word_scores(WORDS, [None, (5, 6), (0, 5), None], [100, 100, 1, 100], how) == [1, 0, 0]


def test_tokens_with_one_span_all_count() -> None:
    """The bytes of an emoji, or two characters that a tokenizer normalises from one."""
    assert word_scores([(0, 1)], [(0, 1), (0, 1), (0, 1)], [1, 2, 3]) == [6]
    assert word_scores([(0, 1)], [(0, 1), (0, 1), (0, 1)], [1, 2, 3], "mean") == [2]


@pytest.mark.parametrize("how", HOW)
def test_no_words_is_no_error(how: Aggregation) -> None:
    assert word_scores([], [(0, 3), None], [1, 2], how) == []


def test_words_together_score_what_the_tokens_that_touch_them_scored() -> None:
    chance = random.Random(0)
    for _ in range(200):
        edges = sorted(chance.sample(range(40), 12))
        words = list(zip(edges[::2], edges[1::2], strict=True))
        starts = [chance.randrange(40) for _ in range(15)]
        tokens = [None if chance.random() < 0.1 else (start, start + chance.randint(1, 12)) for start in starts]
        scores = [chance.uniform(-1, 1) for _ in tokens]
        touching = sum(
            score
            for span, score in zip(tokens, scores, strict=True)
            if span and any(span[0] < end and start < span[1] for start, end in words)
        )
        assert sum(word_scores(words, tokens, scores)) == pytest.approx(touching)


TEXTS = (
    "A good film 👩🏾‍🚀👍🏽🇩🇪 indeed",
    "n\u0303o cafe\u0301 a\u0302\u0323 here",
    "שָׁלוֹם, עוֹלָם! مَرْحَبًا film (2024)",
    "你好世界。これはカタカナです good",
    "สวัสดีครับ film",
    "안녕하세요, 세계! a good film",
    "don't l’amour ﬁn ½ x² Ⅷ ㎏ indeed",
    "the  addr_spec\tof\n x_y?  https://a.example/b",
)
FAMILIES = ("wordpiece", "byte-level BPE", "unigram", "the real T5")


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """Trained on some of the texts, so that others have unknown characters."""
    if request.param == "the real T5":
        folder = Path(__file__).parents[3] / "shared" / "models" / "flan-t5-tokenizer"
        if not folder.is_dir():
            pytest.skip("the real T5 tokenizer is not beside this checkout")
        return AutoTokenizer.from_pretrained(folder)
    kind = dict(zip(FAMILIES, ("bert", "gpt2", "t5"), strict=False))[request.param]
    return train_tokenizer(kind, [*TEXTS[:5], "don't", "the film is good"])


def _carries_a_word(character: str) -> bool:
    """Letters, digits and emoji; marks and joiners may be composed with what is before them, and so have no token."""
    return unicodedata.category(character)[0] in "LN" or unicodedata.category(character) in ("So", "Sk")


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_tokens_of_every_kind_of_tokenizer_cover_the_words(tokenizer: Any, text: str) -> None:
    row = tokenize(tokenizer, Template.parse("Review: {input} Sentiment:"), [text], 512)[0]
    words = word_spans(text)
    covered = {position for span in row.offsets if span for position in range(*span)}
    for start, end in words:
        assert {i for i in range(start, end) if _carries_a_word(text[i])} <= covered
    touching = [span for span in row.offsets if span and any(span[0] < end and start < span[1] for start, end in words)]
    counts = word_scores(words, row.offsets, [1.0] * len(row.ids))
    assert min(counts) > 0
    assert sum(counts) == pytest.approx(len(touching))
    assert word_scores(words, row.offsets, [2.0] * len(row.ids), "mean") == pytest.approx([2.0] * len(words))


@pytest.mark.parametrize("word", ["good", "film", "indeed", "here"])
def test_a_words_score_comes_from_its_own_tokens_whatever_stands_around_it(tokenizer: Any, word: str) -> None:
    for text in (text for text in TEXTS if f" {word}" in text):
        row = tokenize(tokenizer, Template.parse("{input}"), [text], 512)[0]
        place = [text[start:end] for start, end in word_spans(text)].index(word)
        own = []
        for i, token in enumerate(row.ids):
            scores = word_scores(word_spans(text), row.offsets, [float(i == j) for j in range(len(row.ids))])
            if scores[place]:
                own.append(token)
                assert scores.count(0.0) == len(scores) - 1
        assert tokenizer.decode(own).strip() == word
