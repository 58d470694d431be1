"""From token scores to word scores, by character spans alone. Knows no tokenizer and no model.

A word scores the sum of its tokens. A token that lies across several words (a tokenizer may merge them, or normalise
two characters into one) is shared among them in proportion to the characters that it has in each; its characters
outside words (a leading space, punctuation) take no share. A token outside every word is dropped: what it scored is
nobody's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

__all__ = ["word_scores"]

Span = tuple[int, int]


def word_scores(words: Sequence[Span], tokens: Sequence[Span | None], scores: Sequence[float]) -> list[float]:
    """One score a word; tokens without a span (template, special, padding) count nowhere."""
    totals = [0.0] * len(words)
    ends = [end for _, end in words]
    for span, score in zip(tokens, scores, strict=True):
        shares = _overlaps(words, ends, span) if span is not None else {}
        covered = sum(shares.values())
        for word, characters in shares.items():
            totals[word] += score * characters / covered
    return totals


def _overlaps(words: Sequence[Span], ends: Sequence[int], span: Span) -> dict[int, int]:
    """The words that a span touches, by position, and the characters it has in each."""
    found = {}
    word = bisect_right(ends, span[0])  # the first word that ends behind the span's start
    while word < len(words) and words[word][0] < span[1]:
        found[word] = min(span[1], words[word][1]) - max(span[0], words[word][0])
        word += 1
    return found
