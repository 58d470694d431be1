"""The few words that speak most for an answer, in reading order. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from understudy.schemas import Word

__all__ = ["top_words"]


def top_words(words: Sequence[Word], top_k: int) -> tuple[Word, ...]:
    """At most `top_k` words with the highest scores, ties to the earlier one.

    A word that scores zero or less speaks for nothing and is left out, unless no word scores more: then the best there
    are are returned, because a text with words always has a rationale.
    """
    speaking = [word for word in words if word.score > 0] or words
    best = sorted(speaking, key=lambda word: (-word.score, word.start))[:top_k]
    return tuple(sorted(best, key=lambda word: word.start))
