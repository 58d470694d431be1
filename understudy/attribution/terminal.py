"""Attributions and comparisons of methods as a terminal shows them: words in colour, figures in tables.

Renders only. Every mark has a sign beside its colour, for terminals and people that see none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from understudy.attribution.heatmap import figure, measured, percent, score, signed, visible
from understudy.attribution.verdict import best, sentences
from understudy.schemas import Attribution, Faithfulness, Word

if TYPE_CHECKING:
    from understudy.attribution.comparison import Column, Comparison, MethodRow

__all__ = ["attribution_view", "bracketed", "comparison_view", "faithfulness_view", "marked", "words_view"]

_HIGHLIGHT = "bold black on yellow"
_FOR = ("", "#c46a00", "black on #f2b866", "black on #ff9500")
_AGAINST = ("", "#3d7fd6", "black on #9cc4f5", "black on #5aa2ff")
"""Styles of words by strength, a quarter of the strongest word's score each; readable on light and on dark."""

_TITLES = {
    "comprehensiveness": "compre-\nhensive",
    "sufficiency": "suffi-\ncient",
    "aopc_comprehensiveness": "AOPC\ncompr.",
    "aopc_sufficiency": "AOPC\nsuff.",
    "log_odds": "log-\nodds",
    "completeness_error": "complete\nerror",
    "token_f1": "token\nF1",
    "iou_f1": "IOU\nF1",
    "agreement": "agrees\nwith first",
}
"""Titles of columns that 80 characters of a line can hold six of."""


def attribution_view(text: str, found: Attribution, *, colours: bool = True) -> RenderableType:
    """The text with its words in colour by their scores, or the rationale in brackets; then the answer and its reasons.

    Words of the rationale are bold and underlined, so that no colour says it alone.
    """
    shown = marked(text, found.words, _heat(found)) if colours else Text(bracketed(text, found.rationale))
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    for name, value in _facts(found):
        facts.add_row(name, value)
    return Padding(Group(shown, Text(), facts), (0, 2))


def _heat(found: Attribution) -> Callable[[Word], str]:
    most = max((abs(word.score) for word in found.words), default=0.0) or 1.0
    chosen = {word.start for word in found.rationale}

    def style(word: Word) -> str:
        level = min(3, int(4 * abs(word.score) / most))
        return (_FOR if word.score > 0 else _AGAINST)[level] + " bold underline" * (word.start in chosen)

    return style


def _facts(found: Attribution) -> list[tuple[str, RenderableType]]:
    """What is said of an attribution below its text, by name."""
    facts: list[tuple[str, RenderableType]] = []
    if found.prediction is not None and found.probability is not None:
        answer = Text(_printable(found.prediction) or "(empty)", style="bold green").append(
            f"  {percent(found.probability)}", "not bold dim"
        )
        facts.append(("answer", answer))
    if found.explained != found.prediction or found.against is not None:
        against = f" and not {found.against}" if found.against is not None else ""
        facts.append(("explained", Text(_printable(f"why {found.explained}{against}"))))
    facts.append(("rationale", _scored(found.rationale, signed(found))))
    negative = sorted((word for word in found.words if word.score < 0), key=lambda word: word.score)
    if negative:
        facts.append(("against it", _scored(negative[: len(found.rationale)], True)))
    for row in found.rows or ():
        words = [word.model_copy(update={"score": value}) for word, value in zip(found.words, row.scores, strict=True)]
        strongest = sorted(words, key=lambda word: -abs(word.score))[: len(found.rationale)]
        facts.append((f"token {_printable(visible(row.token)).strip()}", _scored(strongest, signed(found))))
    if found.faithfulness:
        facts.append(("faithfulness", _figures(found.faithfulness)))
    if found.truncated:
        facts.append(("cut", Text(f"the last {found.truncated} tokens did not fit the model's window")))
    return facts


def _scored(words: Sequence[Word], signed: bool) -> Text:
    shown = Text()
    for word in words:
        shown.append("  " if shown else "").append(_printable(word.text), "bold").append(
            f" {score(word.score, signed)}", "dim"
        )
    return shown if words else Text("the text has no words", style="dim")


def faithfulness_view(found: Faithfulness) -> RenderableType:
    """The figures with what they mean, one a line."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for measure, value in measured(found):
        table.add_row(measure.title, figure(value), measure.meaning)
    return Padding(table, (0, 2))


def _figures(found: Faithfulness) -> RenderableType:
    """The figures alone, two in a line."""
    cells = [(measure.title, figure(value)) for measure, value in measured(found)]
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column()
        table.add_column(justify="right", no_wrap=True)
    for i in range(0, len(cells), 2):
        table.add_row(*(cell for pair in cells[i : i + 2] for cell in pair))
    return table


def words_view(words: Mapping[str, Mapping[str, int]], most: int = 8) -> RenderableType:
    """The words that are most often a reason for each answer, and in how many texts."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold green", no_wrap=True)
    table.add_column()
    for answer, counts in sorted(words.items()):
        often = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
        table.add_row(_printable(answer), Text(_printable(", ".join(f"{word} {count}" for word, count in often))))
    return Padding(table, (0, 2))


def comparison_view(comparison: Comparison) -> RenderableType:
    """Two tables of means with half of their 95 % intervals, the best of each column marked; then what they show."""
    faithful = [column for column in comparison.columns if column.key in Faithfulness.model_fields]
    others = [column for column in comparison.columns if column not in faithful]
    about = f"{comparison.highlighted:,} of them with highlights" if comparison.highlighted else "none with highlights"
    return Group(
        Padding(
            Text(f"{comparison.examples:,} examples, {about}. Means, ± half of the 95 % interval; * is the best."),
            (0, 2),
        ),
        _methods(comparison, faithful, timed=False),
        _methods(comparison, others, timed=True),
        *(Padding(Text(sentence, "bold"), (0, 2)) for sentence in sentences(comparison)),
    )


def _methods(comparison: Comparison, columns: Sequence[Column], *, timed: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", min_width=20)
    for column in columns:
        arrow = {"high": " ↑", "low": " ↓", None: ""}[column.better]
        table.add_column(_TITLES.get(column.key, column.title) + arrow, justify="right", no_wrap=True)
    if timed:
        table.add_column("seconds\nper 100 ↓", justify="right")
    first = best(comparison)
    for row in comparison.rows:
        cells = [_mean(row, column, first.get(column.key) is row) for column in columns]
        seconds = [f"{100 * row.seconds / row.timed:.2f}"] if timed else []
        settings = "".join(f"\n  {name} {value}" for name, value in row.settings.items())
        table.add_row(row.method + settings, *cells, *seconds, style="dim" if row.control else "")
    return table


def _mean(row: MethodRow, column: Column, best: bool) -> Text:
    found = row.figures.get(column.key)
    if found is None:
        return Text("")
    half = (found.high - found.low) / 2
    return Text(f"{'*' * best}{figure(found.mean)}", "bold" if best else "").append(f"\n±{half:.3f}", "not bold dim")


def marked(text: str, words: Iterable[Word], style: Callable[[Word], str] = lambda _: _HIGHLIGHT) -> Text:
    """The text with these words in a style."""
    shown = Text(_printable(text))
    for word in words:
        shown.stylize(style(word), word.start, word.end)
    return shown


def bracketed(text: str, words: Sequence[Word]) -> str:
    """The text with these words in brackets, where there are no colours."""
    text = _printable(text)
    for word in sorted(words, key=lambda word: -word.start):
        text = f"{text[: word.start]}[{text[word.start : word.end]}]{text[word.end :]}"
    return text


def _printable(text: str) -> str:
    """Control characters, which a terminal would obey, as one visible character each."""
    return "".join(" " if one == "\r" else "\N{REPLACEMENT CHARACTER}" if _is_control(one) else one for one in text)


def _is_control(one: str) -> bool:
    return (one < " " and one not in "\n\t") or "\x7f" <= one < "\xa0"
