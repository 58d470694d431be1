"""Text to tokens and back to characters: templates, windows and offsets, the same for every architecture.

A text is tokenised together with its template, exactly as a model that was trained on the rendered text saw it. What
does not fit the window is cut from the end of the user's text, never from the template. Knows nothing of models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from understudy.errors import ModelError

__all__ = ["Encoded", "Template", "bounded_target", "clean", "fitting", "own_texts", "pad", "tokenize"]

_SURROGATE = re.compile("[\ud800-\udfff]")

Span = tuple[int, int]


def clean(text: str) -> str:
    """Each lone surrogate, which no tokenizer takes, becomes U+FFFD; offsets stay as they were."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


@dataclass(frozen=True)
class Template:
    """The words around the user's text: `Template.parse("Review: {input} Sentiment:")`."""

    prefix: str
    suffix: str

    @classmethod
    def parse(cls, template: str) -> Template:
        prefix, _, suffix = template.partition("{input}")
        return cls(prefix, suffix)

    def render(self, text: str) -> str:
        """Put the text in its place."""
        return f"{self.prefix}{clean(text)}{self.suffix}"


@dataclass(frozen=True)
class Encoded:
    """One text in its template. `offsets` are spans of the user's text, None for tokens that are no part of it."""

    ids: list[int]
    offsets: list[Span | None]
    truncated: int = 0

    def without(self, spans: Collection[Span]) -> Encoded:
        """The same text with the tokens left out that touch any of these spans; template and special tokens stay."""
        return self._where(lambda token: not any(start < token[1] and token[0] < end for start, end in spans))

    def only(self, spans: Collection[Span]) -> Encoded:
        """The same text with no tokens but those that touch one of these spans; template and special tokens stay."""
        return self._where(lambda token: any(start < token[1] and token[0] < end for start, end in spans))

    @property
    def fixed(self) -> int:
        """How many tokens stand around the user's text: template and special tokens."""
        first, last = self._users
        return len(self.ids) - (last - first)

    def cut(self, max_tokens: int) -> Encoded:
        """At most this many tokens: the user's last ones are dropped, never the template's.

        Raises ModelError when the template alone takes more.
        """
        excess = len(self.ids) - max_tokens
        if excess <= 0:
            return self
        if self.fixed >= max_tokens:
            raise ModelError(
                f"the template and special tokens take {self.fixed} of the model's {max_tokens} tokens and leave no "
                "room for a text: shorten the template",
                param="template",
            )
        last = self._users[1]
        kept = [*range(last - excess), *range(last, len(self.ids))]
        return self._at(kept, self.truncated + excess)

    @property
    def _users(self) -> Span:
        """Where the tokens of the user's text begin and end."""
        places = [place for place, span in enumerate(self.offsets) if span is not None]
        return (places[0], places[-1] + 1) if places else (0, 0)

    def _where(self, keep: Callable[[Span], bool]) -> Encoded:
        kept = [place for place, span in enumerate(self.offsets) if span is None or keep(span)]
        return self._at(kept, self.truncated)

    def _at(self, places: Sequence[int], truncated: int) -> Encoded:
        return Encoded([self.ids[place] for place in places], [self.offsets[place] for place in places], truncated)


def tokenize(
    tokenizer: Any, template: Template, texts: Sequence[str], max_tokens: int, *, special: bool = True
) -> list[Encoded]:
    """Tokenise each text in the template, at most `max_tokens` each.

    `special=False` leaves out what the tokenizer adds at the ends. Raises ModelError when the template alone fills
    the window.
    """
    if not texts:
        return []
    found = tokenizer(
        [template.render(text) for text in texts],
        add_special_tokens=special,
        padding=False,
        truncation=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,  # the window is ours to keep: see Encoded.cut
    )
    start = len(template.prefix)
    return [
        Encoded(ids, [_clip(span, start, start + len(text)) for span in spans]).cut(max_tokens)
        for text, ids, spans in zip(texts, found["input_ids"], found["offset_mapping"], strict=True)
    ]


def _clip(span: Span, start: int, end: int) -> Span | None:
    """The part of a span of the rendered text that lies in the user's text, counted from that text's start."""
    low, high = max(span[0], start), min(span[1], end)
    return (low - start, high - start) if low < high else None


def bounded_target(ids: list[int], max_tokens: int) -> list[int]:
    """The target's ids, or ModelError: a target is never cut, because another target would be explained."""
    if len(ids) > max_tokens:
        raise ModelError(f"the target takes {len(ids)} tokens and the model's window is {max_tokens}", param="output")
    return ids


def fitting(text: str, tokens: Callable[[str], int], most: int) -> str:
    """As much of a text's beginning as takes at most so many tokens, by a function that counts them."""
    while text and (taken := tokens(text)) > most:
        text = text[: min(len(text) - 1, len(text) * most // taken)].strip()
    return text


def pad(rows: Sequence[Sequence[float]], value: float, *, left: bool = False) -> Tensor:
    """Rows of unequal length as one (B, T) tensor."""
    width = max(map(len, rows))
    fill = [[value] * (width - len(row)) for row in rows]
    return torch.tensor([[*f, *row] if left else [*row, *f] for row, f in zip(rows, fill, strict=True)])


def own_texts(tokenizer: Any, labels: Tensor, own: Tensor) -> list[list[str]]:
    """What each of a target's own tokens says: (B, S), (B, S) -> B lists. A piece of a character is a U+FFFD."""
    return [
        [tokenizer.decode([token]) for token, counts in zip(ids, mine, strict=True) if counts]
        for ids, mine in zip(labels.tolist(), own.tolist(), strict=True)
    ]
