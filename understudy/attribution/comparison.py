"""Which method to trust: several of them on one model and one file, each beside two that know nothing.

Every method explains the same examples for the same answers; its maps are then judged by the model (faithfulness), by
people's highlights where there are any (plausibility), and by the clock. The random and the first-words control always
stand in the same table: a method that does not beat them explains nothing here. Knows no command line and no file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from understudy.attribution.attribute import attribute
from understudy.attribution.methods import make_method
from understudy.attribution.plausibility import match
from understudy.models.base import Adapter
from understudy.schemas import Attribution, AttributionExample, AttributionOptions

__all__ = [
    "COLUMNS",
    "CONTROLS",
    "Column",
    "Comparison",
    "Figure",
    "Highlighted",
    "MethodRow",
    "compare",
    "rank_correlation",
]

Settings = Mapping[str, float | int | str]

CONTROLS = ("random", "first_words")
"""What any method must beat: it is not enough to name few words, or those that texts begin with."""

CHUNK = 64
"""Examples explained at once: how often progress is told, and how many one method is timed on."""

ROUNDS = 3
RESAMPLES = 1000
_BLOCK = 100  # resamples drawn at once: bounds the memory for many examples
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Column:
    """A figure of the table: its key in `MethodRow.figures`, its name for people, and which end of it is good."""

    key: str
    title: str
    better: Literal["high", "low"] | None


COLUMNS = (
    Column("comprehensiveness", "comprehensiveness", "high"),
    Column("sufficiency", "sufficiency", "low"),
    Column("aopc_comprehensiveness", "AOPC comprehensiveness", "high"),
    Column("aopc_sufficiency", "AOPC sufficiency", "low"),
    Column("log_odds", "log-odds", "low"),
    Column("completeness_error", "completeness error", "low"),
    Column("token_f1", "token F1", "high"),
    Column("iou_f1", "IOU F1", "high"),
    Column("auprc", "AUPRC", "high"),
    Column("agreement", "agreement with the first", None),
)


@dataclass(frozen=True)
class Figure:
    """A mean over `examples` examples and the 95 % interval of it, by bootstrap over those examples."""

    mean: float
    low: float
    high: float
    examples: int


@dataclass(frozen=True)
class MethodRow:
    """One method's line. `figures` lacks the columns that it promises nothing for or that had no example.

    `seconds` is what the maps alone took, without faithfulness, for `timed` examples.
    """

    method: str
    settings: Settings
    figures: Mapping[str, Figure]
    seconds: float
    timed: int

    @property
    def control(self) -> bool:
        return self.method in CONTROLS

    @property
    def examples_per_second(self) -> float:
        return self.timed / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Comparison:
    """Methods in the caller's order, then the controls that it did not name. `highlighted` of `examples` were judged
    against people; `columns` are those that at least one method has a figure for, in the order of COLUMNS.
    """

    examples: int
    highlighted: int
    columns: tuple[Column, ...]
    rows: tuple[MethodRow, ...]


class Highlighted(Protocol):
    """An example that a person may have marked: `understudy.schemas.Example` is one."""

    @property
    def id(self) -> str | None: ...
    @property
    def input(self) -> str: ...
    @property
    def output(self) -> str | None: ...
    @property
    def choices(self) -> tuple[str, ...] | None: ...
    @property
    def highlights(self) -> tuple[tuple[int, int], ...] | None: ...


def compare(
    adapter: Adapter,
    examples: Sequence[Highlighted],
    methods: Sequence[tuple[str, Settings]],
    options: AttributionOptions,
    *,
    max_padded_tokens: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Explain the examples with each method and with both controls, and say how good the maps are.

    `options` say what is explained and how words are chosen; their `method`, `settings`, `faithfulness`, `rows` and
    `predict` are set here. `seed` is the bootstrap's. `progress(done, total)` counts examples times methods. Raises
    what `attribute` raises; `examples[64:][3]` in a message is the fourth example behind the first 64.
    """
    asked = [AttributionExample(id=one.id, input=one.input, output=one.output, choices=one.choices) for one in examples]
    lineup = [*methods, *((name, {}) for name in CONTROLS if name not in dict(methods))]
    for method, settings in lineup:
        make_method(method, settings)  # refuse before the model has worked
    asked_of_all = {"faithfulness": True, "rows": False, "predict": options.target == "predicted"}
    rows: list[MethodRow] = []
    first: list[Attribution] = []
    for place, (method, settings) in enumerate(lineup):
        chosen = options.model_copy(update={"method": method, "settings": dict(settings), **asked_of_all})
        found: list[Attribution] = []
        for chunk in _explain(adapter, asked, chosen, max_padded_tokens):
            found += chunk
            if progress is not None:
                progress(place * len(asked) + len(found), len(lineup) * len(asked))
        measured = _measured(found, [one.highlights for one in examples], first)
        figures = {key: _figure(values, seed) for key, values in measured.items() if values}
        seconds = _seconds(adapter, asked[:CHUNK], chosen, max_padded_tokens)
        rows.append(MethodRow(method, dict(settings), figures, seconds, min(CHUNK, len(asked))))
        first = first or found
    known = {key for row in rows for key in row.figures}
    return Comparison(
        examples=len(asked),
        highlighted=rows[0].figures["auprc"].examples if "auprc" in known else 0,
        columns=tuple(column for column in COLUMNS if column.key in known),
        rows=tuple(rows),
    )


def _explain(
    adapter: Adapter, asked: Sequence[AttributionExample], options: AttributionOptions, max_padded_tokens: int | None
) -> Iterator[list[Attribution]]:
    for start in range(0, len(asked), CHUNK):
        yield attribute(
            adapter,
            asked[start : start + CHUNK],
            options,
            max_padded_tokens=max_padded_tokens,
            field=f"examples[{start}:]" if start else "examples",
        )


def _seconds(
    adapter: Adapter, asked: Sequence[AttributionExample], options: AttributionOptions, max_padded_tokens: int | None
) -> float:
    """The time of the maps alone, and of the model's own answers where they are what is explained.

    The fastest of several rounds: whatever else the machine does can only add to it.
    """
    alone = options.model_copy(update={"faithfulness": False})
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        attribute(adapter, asked, alone, max_padded_tokens=max_padded_tokens)
        rounds.append(time.perf_counter() - started)
    return min(rounds)


def _measured(
    found: Sequence[Attribution], highlights: Sequence[Sequence[tuple[int, int]] | None], first: Sequence[Attribution]
) -> dict[str, list[float]]:
    """Every example's own figures by column; an example that has none is in no list."""
    figures: dict[str, list[float]] = {column.key: [] for column in COLUMNS}
    for one, spans in zip(found, highlights, strict=True):
        judged = (one.faithfulness, match(one, spans or ()))
        for key, value in (item for part in judged if part is not None for item in vars(part).items()):
            if value is not None:
                figures[key].append(value)
    scores = ([[word.score for word in one.words] for one in maps] for maps in (found, first))
    correlations = [rank_correlation(*pair) for pair in zip(*scores, strict=True)] if first else []
    figures["agreement"] = [value for value in correlations if value is not None]
    return figures


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's, in [-1, 1]; None where either side gives everything the same score."""
    ours, theirs = _ranks(one), _ranks(other)
    if min(len(np.unique(ours)), len(np.unique(theirs))) < 2:
        return None
    return float(np.corrcoef(ours, theirs)[0, 1])


def _ranks(scores: Sequence[float]) -> NDArray[np.float64]:
    """The rank of each score; equal scores share the mean of their ranks."""
    _, places, counts = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[places]


def _figure(values: Sequence[float], seed: int) -> Figure:
    """The mean, and the percentile interval of the means of examples drawn again with replacement."""
    random, known = np.random.default_rng(seed), np.asarray(values)
    draws = (random.integers(len(known), size=(_BLOCK, len(known))) for _ in range(RESAMPLES // _BLOCK))
    means = np.concatenate([known[draw].mean(-1) for draw in draws])
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Figure(float(known.mean()), float(low), float(high), len(known))
