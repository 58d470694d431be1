"""Does the map name what a person would? Its words and scores against spans that people highlighted. No torch.

Map and person are both read in words: a word is highlighted when more than half of its characters lie inside the
highlights. Words past a model's window are in no map, so a highlight on them is not asked for. The measures are those
of ERASER (DeYoung et al. 2020, arXiv 1911.03429), each the mean over examples of that example's own figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from understudy.schemas import Attribution, Word

__all__ = ["Match", "Plausibility", "highlighted", "match", "plausibility"]

Span = tuple[int, int]

MATCH = 0.5
"""Two runs of words are the same reason when they share at least half of the words that either has."""


@dataclass(frozen=True)
class Match:
    """One map against one person, each figure in [0, 1].

    `token_f1`: F1 of the rationale's words against the highlighted words. `iou_f1`: F1 of runs of neighbouring words,
    where a run counts as found when its intersection over union with one of the other side's is 0.5 or more. `auprc`:
    average precision of the scores, for which no selection of words is needed.
    """

    token_f1: float
    iou_f1: float
    auprc: float


@dataclass(frozen=True)
class Plausibility:
    """The mean over the `examples` in which at least one word is highlighted; `without` counts the others."""

    token_f1: float
    iou_f1: float
    auprc: float
    examples: int
    without: int


def plausibility(found: Sequence[Attribution], highlights: Sequence[Sequence[Span] | None]) -> Plausibility:
    """Each attribution against the highlights of the same text, in the same order; figures are 0 without any."""
    pairs = [match(one, spans or ()) for one, spans in zip(found, highlights, strict=True)]
    judged = [pair for pair in pairs if pair is not None]
    return Plausibility(
        token_f1=_mean([one.token_f1 for one in judged]),
        iou_f1=_mean([one.iou_f1 for one in judged]),
        auprc=_mean([one.auprc for one in judged]),
        examples=len(judged),
        without=len(pairs) - len(judged),
    )


def match(found: Attribution, highlights: Sequence[Span]) -> Match | None:
    """One attribution against its text's highlights; None where no word of it is highlighted."""
    gold = highlighted(found.words, highlights)
    if not any(gold):
        return None
    chosen = {word.start for word in found.rationale}
    named = [word.start in chosen for word in found.words]
    return Match(
        token_f1=_f1(sum(n and g for n, g in zip(named, gold, strict=True)), sum(named), sum(gold)),
        iou_f1=_iou_f1(_runs(named), _runs(gold)),
        auprc=_average_precision([word.score for word in found.words], gold),
    )


def highlighted(words: Sequence[Word], highlights: Sequence[Span]) -> list[bool]:
    """For each word whether most of its characters lie inside the highlights, which may overlap each other."""
    inside = {position for start, end in highlights for position in range(start, end)}
    return [
        2 * sum(position in inside for position in range(word.start, word.end)) > word.end - word.start
        for word in words
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _f1(hits: int, named: int, wanted: int) -> float:
    return 2 * hits / (named + wanted)


def _runs(marked: Sequence[bool]) -> list[range]:
    """Neighbouring marked words as one run, by word position."""
    padded = np.array([False, *marked, False])
    edges = np.flatnonzero(padded[1:] != padded[:-1]).tolist()
    return [range(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _iou_f1(named: Sequence[range], wanted: Sequence[range]) -> float:
    """Runs of one side never touch, so at a threshold of one half no run can be found twice."""
    hits = sum(any(_iou(one, other) >= MATCH for other in wanted) for one in named)
    return _f1(hits, len(named), len(wanted))


def _iou(one: range, other: range) -> float:
    shared = max(0, min(one.stop, other.stop) - max(one.start, other.start))
    return shared / (len(one) + len(other) - shared)


def _average_precision(scores: Sequence[float], gold: Sequence[bool]) -> float:
    """The mean precision at each highlighted word's own score: equal scores are taken all at once."""
    _, ranks, counts = np.unique(-np.asarray(scores), return_inverse=True, return_counts=True)
    hits = np.bincount(ranks, weights=gold)  # highlighted words at each score, best score first
    precision = hits.cumsum() / counts.cumsum()
    return float((hits * precision).sum() / hits.sum())
