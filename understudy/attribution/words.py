"""The words of a text and where they stand: what attributions and rationales are made of. No torch, no tokenizer.

Words are split at the boundaries of Unicode's UAX 29, so that `addr_spec`, `don't` and `os.path` are one word and each
Han character is one. A piece without a letter, a digit or an emoji is no word: punctuation never enters a rationale.
"""

from __future__ import annotations

from itertools import pairwise

import regex

__all__ = ["word_spans"]

Span = tuple[int, int]

_BOUNDARY = regex.compile(r"(?w)\b")
_WORDLIKE = regex.compile(r"[\p{L}\p{N}\p{Extended_Pictographic}\p{Regional_Indicator}]")


def word_spans(text: str) -> list[Span]:
    """Start and end of every word, in reading order; they never overlap."""
    edges = [match.start() for match in _BOUNDARY.finditer(text)]
    return [(start, end) for start, end in pairwise(edges) if _WORDLIKE.search(text, start, end)]
