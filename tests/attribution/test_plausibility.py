from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from understudy.attribution.plausibility import Match, highlighted, match, plausibility
from understudy.attribution.rationale import top_words
from understudy.attribution.words import word_spans
from understudy.data.validate import load_split
from understudy.schemas import Attribution, Example, Word

TEXT = "ab cd ef gh ij kl mn"  # seven words of two characters
SPANS = word_spans(TEXT)


def found(scores: Sequence[float], rationale: Sequence[int]) -> Attribution:
    """A map of TEXT whose rationale are the words at these places."""
    words = tuple(
        Word(text=TEXT[start:end], start=start, end=end, score=score)
        for (start, end), score in zip(SPANS, scores, strict=True)
    )
    return attributed(words, tuple(words[place] for place in rationale))


def attributed(words: tuple[Word, ...], rationale: tuple[Word, ...]) -> Attribution:
    return Attribution(
        id=None, prediction=None, probability=None, explained="yes", words=words, rationale=rationale, tokens=9
    )


def marks(*places: int) -> list[tuple[int, int]]:
    return [SPANS[place] for place in places]


def matched(rationale: Sequence[int], highlights: Sequence[int], scores: Sequence[float] = (0,) * 7) -> Match:
    result = match(found(scores, rationale), marks(*highlights))
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("rationale", "highlights", "f1"),
    [
        ([1, 2], [1, 2], 1.0),
        ([1, 2], [2, 3, 4], 2 * 1 / (2 + 3)),  # precision 1/2, recall 1/3
        ([0, 1, 2, 3, 4, 5, 6], [3], 2 * 1 / (7 + 1)),
        ([0], [1], 0.0),
        ([], [1], 0.0),
    ],
)
def test_token_f1_is_that_of_the_rationales_words(rationale: list[int], highlights: list[int], f1: float) -> None:
    assert matched(rationale, highlights).token_f1 == pytest.approx(f1)


@pytest.mark.parametrize(
    ("rationale", "highlights", "f1"),
    [
        ([1, 2], [1, 2], 1.0),
        ([1, 2], [2, 3], 0.0),  # one word of three
        ([1, 2, 3], [2, 3, 4], 1.0),  # two of four: just enough
        ([2], [1, 2], 1.0),  # one of two
        ([0, 1, 4], [0, 1, 4, 5, 6], 2 * 1 / (2 + 2)),  # runs 0-1 and 4; runs 0-1 and 4-6
        ([0, 2, 4], [0, 1, 2, 3, 4], 0.0),  # three runs of one word, none of which is half of the one of five
        ([0, 6], [0], 2 * 1 / (2 + 1)),
        ([], [0], 0.0),
    ],
)
def test_iou_f1_is_that_of_runs_of_neighbouring_words(rationale: list[int], highlights: list[int], f1: float) -> None:
    assert matched(rationale, highlights).iou_f1 == pytest.approx(f1)


@pytest.mark.parametrize(
    ("scores", "highlights", "auprc"),
    [
        ((7, 6, 5, 4, 3, 2, 1), [0, 1], 1.0),
        ((7, 6, 5, 4, 3, 2, 1), [0, 2], (1 / 1 + 2 / 3) / 2),
        ((7, 6, 5, 4, 3, 2, 1), [6], 1 / 7),
        ((-1, -2, -3, -9, -9, -9, -9), [1], 1 / 2),
        ((0, 0, 0, 0, 0, 0, 0), [3, 5], 2 / 7),  # all at once
        ((2, 2, 1, 1, 1, 0, 0), [0, 2], (1 / 2 + 2 / 5) / 2),  # ties are taken together
        ((3, 2, 2, 0, 0, 0, 0), [0, 2], (1 / 1 + 2 / 3) / 2),
    ],
)
def test_auprc_is_the_average_precision_of_the_scores(
    scores: tuple[float, ...], highlights: list[int], auprc: float
) -> None:
    assert matched([0], highlights, scores).auprc == pytest.approx(auprc)


def test_a_tie_is_worth_the_same_in_any_order() -> None:
    forth, back = matched([0], [1], (5, 5, 1, 1, 1, 1, 1)), matched([0], [0], (5, 5, 1, 1, 1, 1, 1))
    assert forth.auprc == back.auprc == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(0, 3)], [True, False, False]),
        ([(0, 2)], [False, False, False]),  # two of four characters are not most of them
        ([(2, 8)], [False, True, False]),
        ([(3, 12)], [False, True, True]),
        ([(0, 1), (0, 1), (0, 2)], [False, False, False]),  # overlapping highlights count once
        ([(0, 1), (2, 4)], [True, False, False]),
        ([(0, 500)], [True, True, True]),
        ([(4, 5), (7, 7)], [False, False, False]),
        ([], [False, False, False]),
    ],
)
def test_a_word_is_highlighted_where_most_of_its_characters_are(
    spans: list[tuple[int, int]], expected: list[bool]
) -> None:
    text = "four six nines"
    words = [Word(text=text[start:end], start=start, end=end, score=0) for start, end in word_spans(text)]
    assert highlighted(words, spans) == expected


def test_highlights_without_a_word_are_no_ones_judgement() -> None:
    assert match(found((0,) * 7, [0]), []) is None
    assert match(found((0,) * 7, [0]), [(2, 3)]) is None  # a space
    assert match(attributed((), ()), [(0, 5)]) is None


def test_the_mean_is_over_examples_that_someone_judged() -> None:
    maps = [found((7, 6, 5, 4, 3, 2, 1), [0, 1])] * 4
    result = plausibility(maps, [marks(0, 1), None, marks(5, 6), []])
    assert (result.examples, result.without) == (2, 2)
    assert result.token_f1 == pytest.approx((1 + 0) / 2)
    assert result.iou_f1 == pytest.approx((1 + 0) / 2)
    assert result.auprc == pytest.approx((1 + (1 / 6 + 2 / 7) / 2) / 2)


def test_without_any_judgement_there_is_nothing_to_report() -> None:
    result = plausibility([found((0,) * 7, [0])], [None])
    assert (result.examples, result.without) == (0, 1)
    assert result.token_f1 == result.iou_f1 == result.auprc == 0


def mapped(example: Example, scores: Sequence[float]) -> Attribution:
    """A map whose rationale are the best fifth of the words."""
    spans = zip(word_spans(example.input), scores, strict=True)
    words = tuple(Word(text=example.input[a:b], start=a, end=b, score=score) for (a, b), score in spans)
    return attributed(words, top_words(words, math.ceil(len(words) / 5)))


def rows(folder: Path, name: str, split: str, most: int) -> list[Example]:
    kept, _ = load_split(folder / name / f"{split}.jsonl", split)  # type: ignore[arg-type]
    return [row for row in kept if row.highlights][:most]


@pytest.mark.parametrize(("name", "split"), [("tweet_sentiment", "test"), ("commonsense_qa", "train")])
def test_on_peoples_own_highlights_a_map_that_knows_them_is_perfect(real_data: Path, name: str, split: str) -> None:
    examples = rows(real_data, name, split, 500)
    oracle = []
    for example in examples:
        plain = mapped(example, [0.0] * len(word_spans(example.input)))
        gold = highlighted(plain.words, example.highlights or ())
        words = tuple(
            word.model_copy(update={"score": float(mark)}) for word, mark in zip(plain.words, gold, strict=True)
        )
        oracle.append(attributed(words, tuple(word for word in words if word.score)))
    result = plausibility(oracle, [example.highlights for example in examples])
    assert result.token_f1 == result.iou_f1 == result.auprc == 1.0
    assert result.without < len(examples) / 20  # an emoticon, or half a word


@pytest.mark.parametrize(("name", "split"), [("tweet_sentiment", "test"), ("commonsense_qa", "train")])
def test_on_peoples_own_highlights_a_random_map_is_as_good_as_chance(real_data: Path, name: str, split: str) -> None:
    chance = random.Random(0)
    examples = rows(real_data, name, split, 500)
    maps = [mapped(example, [chance.random() for _ in word_spans(example.input)]) for example in examples]
    result = plausibility(maps, [example.highlights for example in examples])
    judged = [highlighted(one.words, example.highlights or ()) for one, example in zip(maps, examples, strict=True)]
    counts = [(len(gold), sum(gold)) for gold in judged if any(gold)]
    assert result.token_f1 == pytest.approx(mean([chance_f1(*count) for count in counts]), abs=0.02)
    assert result.auprc == pytest.approx(mean([chance_precision(*count) for count in counts]), abs=0.02)
    assert mean([chance_precision(10_000 * words, 10_000 * marked) for words, marked in counts]) == pytest.approx(
        mean([marked / words for words, marked in counts]), abs=0.001
    )


def chance_f1(words: int, marked: int) -> float:
    """What a fifth of the words, drawn at random, is expected to score."""
    named = math.ceil(words / 5)
    return 2 * named * marked / words / (named + marked)


def chance_precision(words: int, marked: int) -> float:
    """The expected average precision of a random order: the share of marked words, and more where words are few.

    The word at rank i is as likely marked as any other, and then (i - 1) (marked - 1) / (words - 1) before it are too.
    """
    harmonic = math.log(words) + 0.5772156649 + 1 / (2 * words) - 1 / (12 * words**2)
    return (harmonic + (marked - 1) / max(1, words - 1) * (words - harmonic)) / words


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
