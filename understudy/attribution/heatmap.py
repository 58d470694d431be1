"""Attributions as a page: one HTML file without scripts, fetching nothing, readable in light and dark. Imports no torch.

The template holds the words and the looks; what is here cuts each text into its words and what stands between them,
and turns scores into strengths. Knows no method and no model: what is to be said of them is in `facts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from understudy.schemas import Attribution, Faithfulness, Word

__all__ = ["MEASURES", "Measure", "Piece", "pieces", "signed", "to_html"]


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

    `chosen` marks the words of the rationale.
    """

    text: str
    word: Word | None = None
    strength: float = 0.0
    chosen: bool = False


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
    its id or its number. Raises ValueError where results and texts differ in number.
    """
    names = headings or [one.id or f"Example {number}" for number, one in enumerate(results, start=1)]
    shown = [
        {"name": name, "found": one, "pieces": pieces(text, one), "measured": _measured(one.faithfulness)}
        for name, one, text in zip(names, results, texts, strict=True)
    ]
    negative = any(signed(one) for one in results)
    return _page().render(title=title, facts=facts, examples=shown, signed=negative)


def pieces(text: str, found: Attribution) -> list[Piece]:
    """The whole text, cut at the words of a map: joined again, the pieces are the text to the letter."""
    most = max((abs(word.score) for word in found.words), default=0.0) or 1.0
    chosen = {word.start for word in found.rationale}
    cut: list[Piece] = []
    place = 0
    for word in found.words:
        cut += [
            Piece(text[place : word.start]),
            Piece(text[word.start : word.end], word, word.score / most, word.start in chosen),
        ]
        place = word.end
    return [piece for piece in [*cut, Piece(text[place:])] if piece.text]


def signed(found: Attribution) -> bool:
    """Whether some word speaks against the explained answer: the maps of some methods have no sign."""
    return any(word.score < 0 for word in found.words)


def _measured(found: Faithfulness | None) -> list[tuple[Measure, float]]:
    values = found.model_dump() if found else {}
    return [(measure, values[measure.key]) for measure in MEASURES if values.get(measure.key) is not None]


@cache
def _page() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": _score}
    return environment.get_template("heatmap.html.j2")


def _score(value: float) -> str:
    """Three significant digits with the sign."""
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")
