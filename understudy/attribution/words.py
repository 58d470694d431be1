"""The words of a text and where they stand: what attributions and rationales are made of. No torch, no tokenizer.

Words are split at the boundaries of Unicode's UAX 29, so that `addr_spec`, `don't` and `os.path` are one word. Scripts
without spaces are split without a dictionary: each Han or Hiragana character and each Thai letter with its marks is a
word, a run of Katakana is one. A piece without a letter, a digit or an emoji is a word only where punctuation is asked
for.
"""

from __future__ import annotations

from itertools import islice, pairwise

import regex

__all__ = ["is_punctuation", "word_spans"]

Span = tuple[int, int]

_BOUNDARY = regex.compile(r"(?w)\b")
_WORDLIKE = regex.compile(r"[\p{L}\p{N}\p{Extended_Pictographic}\p{Regional_Indicator}]")
_VISIBLE = regex.compile(r"[^\s\p{Cc}\p{Cf}]")


def word_spans(text: str, *, punctuation: bool = False, most: int | None = None) -> list[Span]:
    """Start and end of every word, or of the first `most`, in reading order; they never overlap.

    With `punctuation` every piece that is not white space (controls and invisible marks are) is a word too.
    """
    wanted = _VISIBLE if punctuation else _WORDLIKE
    edges = (match.start() for match in _BOUNDARY.finditer(text))
    words = ((start, end) for start, end in pairwise(edges) if wanted.search(text, start, end))
    return list(islice(words, most))


def is_punctuation(word: str) -> bool:
    """Whether a piece of text has no letter, digit or emoji: a word only where punctuation was asked for."""
    return _WORDLIKE.search(word) is None
