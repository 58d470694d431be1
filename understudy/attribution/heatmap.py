"""Attributions as a page: one HTML file without scripts that fetches nothing, for light and dark. Imports no torch.

The template holds the words and the looks; what is here cuts each text into its words and what stands between them,
and turns scores into strengths. Knows no method and no model: what is to be said of them is in `facts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from understudy.schemas import Attribution, Faithfulness, TokenRow, Word

__all__ = [
    "MEASURES",
    "Measure",
    "Piece",
    "figure",
    "measured",
    "percent",
    "pieces",
    "score",
    "signed",
    "to_html",
    "visible",
]

_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Measure:
    """A figure of `Faithfulness`: its field, its name for people, and how to read it."""

    key: str
    title: str
    meaning: str


MEASURES = (
    Measure("comprehensiveness", "Comprehensiveness", "lost probability without the rationale: high is good"),
    Measure("sufficiency", "Sufficiency", "lost probability with the rationale alone: low is good"),
    Measure(
        "aopc_comprehensiveness", "AOPC comprehensiveness", "the same for the best 1 to 50 % of words: high is good"
    ),
    Measure("aopc_sufficiency", "AOPC sufficiency", "the same for the best 1 to 50 % of words alone: low is good"),
    Measure("log_odds", "Log-odds", "change of log-probability without the best 1 to 50 % of words: low is good"),
    Measure("completeness_error", "Completeness error", "share of the score's change that the words do not add up to"),
)


@dataclass(frozen=True)
class Piece:
    """A piece of a text. `word` is None between words; `strength` is its score over the largest of its text, -1 to 1.

    `chosen` marks the words of the rationale, `cut` what stands behind the last word that the model has read.
    """

    text: str
    word: Word | None = None
    strength: float = 0.0
    chosen: bool = False
    cut: bool = False


def to_html(
    results: Sequence[Attribution],
    texts: Sequence[str],
    *,
    title: str,
    facts: Mapping[str, str],
    headings: Sequence[str] | None = None,
) -> str:
    """The page of these results, one below the other, each with its own text of `texts`.

    `facts` are shown above them as they are (model, method, precision). `headings` name each result; without them it is
    its id or its number. Raises ValueError where results, texts and headings differ in number.
    """
    names = headings or [one.id or f"Example {number}" for number, one in enumerate(results, start=1)]
    examples = [
        {
            "name": name,
            "found": one,
            "pieces": pieces(text, one),
            "measured": measured(one.faithfulness),
            "rows": _rows(one.rows or ()),
            "signed": signed(one),
        }
        for name, one, text in zip(names, results, texts, strict=True)
    ]
    kinds = {measure.key for one in results for measure, _ in measured(one.faithfulness)}
    known = [measure for measure in MEASURES if measure.key in kinds]
    return _page().render(
        title=title, facts=facts, examples=examples, measures=known, signed=any(one["signed"] for one in examples)
    )


def pieces(text: str, found: Attribution) -> list[Piece]:
    """The whole text, cut at the words of a map: joined again, the pieces are the text to the letter."""
    most = max((abs(word.score) for word in found.words), default=0.0) or 1.0
    chosen = {word.start for word in found.rationale}
    cut: list[Piece] = []
    place = 0
    for word in found.words:
        between = Piece(text[place : word.start])
        cut += [between, Piece(text[word.start : word.end], word, word.score / most, word.start in chosen)]
        place = word.end
    rest = Piece(text[place:], cut=found.truncated > 0)
    return [piece for piece in [*cut, rest] if piece.text]


def measured(found: Faithfulness | None) -> list[tuple[Measure, float]]:
    """The figures that there are, in the order of MEASURES."""
    values = found.model_dump() if found else {}
    return [(measure, values[measure.key]) for measure in MEASURES if values.get(measure.key) is not None]


def signed(found: Attribution) -> bool:
    """Whether a word speaks against the explained answer: the maps of some methods have no sign."""
    rows = found.rows or ()
    return any(word.score < 0 for word in found.words) or any(score < 0 for row in rows for score in row.scores)


def _rows(rows: Sequence[TokenRow]) -> list[dict[str, Any]]:
    """Each row's token, and its scores with their strengths: one scale and as many decimals for all rows of a text."""
    most = max((abs(score) for row in rows for score in row.scores), default=0.0) or 1.0
    digits = min(9, max(0, 2 - math.floor(math.log10(most))))  # three significant ones of the largest
    return [
        {"token": visible(row.token), "cells": [(_decimals(score, digits), score / most) for score in row.scores]}
        for row in rows
    ]


@cache
def _page() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": score, "figure": figure, "percent": percent}
    return environment.get_template("heatmap.html.j2")


def visible(token: str) -> str:
    """A token as it is, or in quotes where nothing of it could be seen."""
    return token if token.strip() else repr(token)


def score(value: float, signed: bool) -> str:
    """Three significant digits; with a plus too where scores have signs, as it would say what no method has found."""
    return f"{value:{'+' if signed else ''}.3g}".replace("-", _MINUS)


def figure(value: float) -> str:
    """Three decimals; the sign only where it is a minus."""
    return _decimals(value, 3)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share == 0 or share >= 0.001 else "under 0.1 %"


def _decimals(value: float, digits: int) -> str:
    """Without a sign where nothing is left of the value."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", _MINUS)
