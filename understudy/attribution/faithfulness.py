"""Does the model need the words that a map names? It is asked again without them, and with them alone.

The measures are those of ERASER (DeYoung et al. 2020, arXiv 1911.03429), with p the model's probability of the
explained answer. Words are left out as token ids of the text that was tokenised once: decoding and tokenising again
would change tokens that nobody removed. A token that lies across words goes with any of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from understudy.attribution.rationale import by_score, part_of
from understudy.errors import ModelError
from understudy.models.base import Adapter
from understudy.models.text import Encoded
from understudy.schemas import Faithfulness, Word

__all__ = ["SHARES", "faithfulness"]

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""The shares of all words that AOPC and log-odds are means over, ERASER's bins: at least one word each."""


def faithfulness(
    adapter: Adapter,
    encoded: Sequence[Encoded],
    words: Sequence[Sequence[Word]],
    rationales: Sequence[Sequence[Word]],
    explained: Sequence[str],
    closed: Sequence[Sequence[str]],
) -> list[Faithfulness]:
    """One result an example, in order; `completeness_error` is left to the caller.

    `explained` is the answer whose probability is asked for, normalised over the example's `closed` set where it has
    one, else the product over the answer's own tokens. Equal inputs are put to the model once, all in one call.
    """
    plans = [_variants(*each) for each in zip(encoded, words, rationales, strict=True)]
    candidates = [_candidates(*each) for each in zip(explained, closed, strict=True)]
    asked: dict[tuple[tuple[int, ...], tuple[str, ...]], Encoded] = {}
    for plan, answers in zip(plans, candidates, strict=True):
        for row in plan:
            asked.setdefault((tuple(row.ids), answers), row)
    likelihoods = adapter.likelihoods(list(asked.values()), [list(answers) for _, answers in asked])
    known = dict(zip(asked, likelihoods, strict=True))
    return [
        _measures([_log_probability(known[tuple(row.ids), answers], answers.index(answer)) for row in plan])
        for plan, answers, answer in zip(plans, candidates, explained, strict=True)
    ]


def _variants(row: Encoded, words: Sequence[Word], rationale: Sequence[Word]) -> list[Encoded]:
    """What the model is asked: all words, without and with only the rationale, and the same for the best shares."""
    ranked = by_score(words)
    best = [_spans(ranked[: part_of(share, len(ranked))]) for share in SHARES]
    named = _spans(rationale)
    return [row, row.without(named), row.only(named), *map(row.without, best), *map(row.only, best)]


def _spans(words: Sequence[Word]) -> list[tuple[int, int]]:
    return [(word.start, word.end) for word in words]


def _candidates(answer: str, closed: Sequence[str]) -> tuple[str, ...]:
    """The answers to normalise over: the closed set, with the explained answer where that is none of it."""
    return tuple(closed) if answer in closed else (answer, *closed)


def _log_probability(likelihoods: Sequence[float], answer: int) -> float:
    """Of one candidate among all, or of the only one as it is. Raises ModelError where it is no number."""
    highest = max(likelihoods)
    total = highest + math.log(sum(math.exp(value - highest) for value in likelihoods)) if len(likelihoods) > 1 else 0.0
    if not math.isfinite(likelihoods[answer] - total):
        raise ModelError("the model's numbers are not finite without some of the words: try float32")
    return likelihoods[answer] - total


def _measures(logs: Sequence[float]) -> Faithfulness:
    """The figures from the log-probabilities of the variants, in their order."""
    whole, gone, alone, *shares = logs
    without, only = shares[: len(SHARES)], shares[len(SHARES) :]
    p = math.exp(whole)
    return Faithfulness(
        comprehensiveness=p - math.exp(gone),
        sufficiency=p - math.exp(alone),
        aopc_comprehensiveness=sum(p - math.exp(log) for log in without) / len(SHARES),
        aopc_sufficiency=sum(p - math.exp(log) for log in only) / len(SHARES),
        log_odds=sum(log - whole for log in without) / len(SHARES),
    )
