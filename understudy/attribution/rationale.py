"""The few words that speak most for an answer, in reading order. No torch.

Words to be ignored are left out first; a text of nothing else keeps them, because a text with words always has a
rationale. Ties go to the earlier word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from understudy.attribution.stop_words import STOP_WORDS
from understudy.attribution.words import is_punctuation
from understudy.schemas import Selection, Word

__all__ = ["by_score", "part_of", "select", "top_words"]


def select(words: Sequence[Word], selection: Selection) -> tuple[Word, ...]:
    """The words that `selection` asks for; at least one where there are words.

    A word that scores zero or less speaks for nothing and is left out, unless no word scores more: then `top_k` and
    `top_share` take the best there are and `threshold` takes the best one. `span` takes neighbours whatever they score,
    and words that are ignored do not part neighbours.
    """
    kept = _kept(words, selection)
    if selection.select == "span":
        return _best_span(kept, selection.top_k)
    if selection.select == "threshold":
        best = max((word.score for word in kept), default=0.0)
        passing = sum(word.score >= selection.threshold * best for word in kept) if best > 0 else 1
        return top_words(kept, passing)
    share = part_of(selection.top_share, len(words))
    return top_words(kept, share if selection.select == "top_share" else selection.top_k)


def top_words(words: Sequence[Word], top_k: int) -> tuple[Word, ...]:
    """At most `top_k` words with the highest scores.

    A word that scores zero or less speaks for nothing and is left out, unless no word scores more: then the best there
    are are returned.
    """
    speaking = [word for word in words if word.score > 0] or words
    return tuple(sorted(by_score(speaking)[:top_k], key=lambda word: word.start))


def by_score(words: Sequence[Word]) -> list[Word]:
    """The words from the best one down."""
    return sorted(words, key=lambda word: (-word.score, word.start))


def part_of(share: float, count: int) -> int:
    """How many of `count` words a share of them is, rounded up: at least one where there are any."""
    return math.ceil(round(share * count, 9))  # 0.07 * 100 is 7.000000000000001


def _kept(words: Sequence[Word], selection: Selection) -> Sequence[Word]:
    """The words that are not ignored. Punctuation goes before stop words, so that a text of only stop words and
    punctuation keeps its words.
    """
    for kind in ("punctuation", "stop_words"):
        if kind in selection.ignore:
            words = [word for word in words if not _IGNORED[kind](word.text)] or words
    return words


def _is_stop_word(word: str) -> bool:
    return word.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'") in STOP_WORDS


_IGNORED: dict[str, Callable[[str], bool]] = {"punctuation": is_punctuation, "stop_words": _is_stop_word}


def _best_span(words: Sequence[Word], length: int) -> tuple[Word, ...]:
    """The `length` words in a row, or all where there are fewer, with the highest sum; the earliest of equals."""
    starts = range(max(1, len(words) - length + 1))
    best = max(starts, key=lambda start: math.fsum(word.score for word in words[start : start + length]))
    return tuple(words[best : best + length])
