"""From token scores to word scores, by character spans alone. Knows no tokenizer and no model.

A token that lies across several words (a tokenizer may merge them, or normalise two characters into one) is shared
among them in proportion to the characters that it has in each; its characters outside words (a leading space,
punctuation) take no share. A token outside every word is dropped: what it scored is nobody's.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Literal

__all__ = ["Aggregation", "word_scores"]

Span = tuple[int, int]

Aggregation = Literal["sum", "mean", "max", "l1", "l2"]

Part = tuple[float, float]
"""What a word has of one token: its share of the token, in (0, 1], and the token's score."""


def word_scores(
    words: Sequence[Span],
    tokens: Sequence[Span | None],
    scores: Sequence[float],
    how: Aggregation = "sum",
) -> list[float]:
    """One score a word; tokens without a span (template, special, padding) count nowhere.

    Of a word's parts (its share of a token times that token's score) `sum` is the sum, so that the words together
    score what the tokens that touch them scored; `l1` and `l2` are the norms, which signs cannot cancel; `max` is the
    part of the largest absolute value, with its sign, and the higher of two that differ by sign alone. `mean` is the
    mean of the tokens' scores with the shares as weights, so that long words score no more than short ones. A word
    that no token touches scores 0.
    """
    parts: list[list[Part]] = [[] for _ in words]
    ends = [end for _, end in words]
    for span, score in zip(tokens, scores, strict=True):
        shares = _overlaps(words, ends, span) if span is not None else {}
        covered = sum(shares.values())
        for word, characters in shares.items():
            parts[word].append((characters / covered, score))
    combine = _COMBINE[how]
    return [combine(part) if part else 0.0 for part in parts]


def _overlaps(words: Sequence[Span], ends: Sequence[int], span: Span) -> dict[int, int]:
    """The words that a span touches, by position, and the characters it has in each."""
    found = {}
    word = bisect_right(ends, span[0])  # the first word that ends behind the span's start
    while word < len(words) and words[word][0] < span[1]:
        found[word] = min(span[1], words[word][1]) - max(span[0], words[word][0])
        word += 1
    return found


def _sum(parts: Sequence[Part]) -> float:
    return sum(share * score for share, score in parts)


def _mean(parts: Sequence[Part]) -> float:
    return _sum(parts) / sum(share for share, _ in parts)


def _max(parts: Sequence[Part]) -> float:
    return max((share * score for share, score in parts), key=lambda part: (abs(part), part))


def _l1(parts: Sequence[Part]) -> float:
    return sum(abs(share * score) for share, score in parts)


def _l2(parts: Sequence[Part]) -> float:
    return math.hypot(*(share * score for share, score in parts))


_COMBINE: dict[Aggregation, Callable[[Sequence[Part]], float]] = {
    "sum": _sum,
    "mean": _mean,
    "max": _max,
    "l1": _l1,
    "l2": _l2,
}
