"""Log-probabilities of many targets of a text in one walk over the tree of their beginnings.

Targets that begin with the same tokens share the steps of these tokens: a model takes one step for each distinct
beginning, and not one for each token of each target. The first step, which has no token before it, is every target's. A
beginning that nobody's target goes on from takes no step. Knows no architecture: whoever has the model says how a step
is made behind an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from understudy.models.writer import Target

__all__ = ["Level", "Step", "levels", "rows_at_once", "walk", "walk_in_chunks"]

MAX_LOGITS = 1 << 26
"""Logits of one pass over targets: 256 MiB in float32, and their gradient as much again. A vocabulary is large, and so
are label sets."""

MAX_KEPT = 1 << 26
"""Numbers that a model keeps of the texts behind the rows of one step: as much again."""


@dataclass(frozen=True)
class Level:
    """The beginnings of one length: R rows, each of the text `owners[r]`, behind row `parents[r]` of the level before.

    `tokens[r]` is the last token of the beginning. `wanted` are (target, row, token): what each target goes on with.
    The first level has the empty beginning of every text, and neither parents nor tokens.
    """

    owners: list[int]
    parents: list[int]
    tokens: list[int]
    wanted: list[tuple[int, int, int]]


def levels(targets: Sequence[tuple[int, Sequence[int]]]) -> list[Level]:
    """The tree of (text, token ids), level by level."""
    found: list[Level] = []
    before: dict[tuple[int, ...], int] = {}
    for depth in range(max((len(ids) for _, ids in targets), default=0)):
        rows: dict[tuple[int, ...], int] = {}
        level = Level([], [], [], [])
        for place, (owner, ids) in enumerate(targets):
            if depth >= len(ids):
                continue
            key = (owner, *ids[:depth])
            if key not in rows:
                rows[key] = len(rows)
                level.owners.append(owner)
                if depth:
                    level.parents.append(before[key[:-1]])
                    level.tokens.append(key[-1])
            level.wanted.append((place, rows[key], ids[depth]))
        found.append(level)
        before = rows
    return found


Step = Callable[[Level], Tensor]
"""The logits (R, V) of what follows each row of a level; asked for one level after the other."""


def walk(targets: Sequence[tuple[int, Target]], step: Step) -> list[float]:
    """The log-probability of each (text, target), its `given` first tokens counting for nothing."""
    totals = torch.zeros(len(targets), dtype=torch.float64)
    for depth, level in enumerate(levels([(owner, target.ids) for owner, target in targets])):
        logits = step(level)
        places, rows, tokens = (torch.tensor(column) for column in zip(*level.wanted, strict=True))
        logits = logits if logits.dtype == torch.float64 else logits.float()
        picked = logits[rows.to(logits.device), tokens.to(logits.device)]
        values = (picked - logits.logsumexp(-1)[rows.to(logits.device)]).double().cpu()
        counted = torch.tensor([depth >= targets[place][1].given for place in places.tolist()])
        totals.index_add_(0, places, values * counted)
    return [float(value) for value in totals]


def walk_in_chunks(targets: Sequence[Sequence[Target]], size: int, stepper: Callable[[], Step]) -> list[list[float]]:
    """The log-probability of each text's targets, so many of them in one walk at most; each walk has a new stepper."""
    found = [[0.0] * len(row) for row in targets]
    # In the order of their tokens, so that those with a common beginning are in one chunk.
    pairs = [(place, k) for place, row in enumerate(targets) for k in range(len(row))]
    pairs.sort(key=lambda pair: (pair[0], targets[pair[0]][pair[1]].ids))
    for start in range(0, len(pairs), size):
        chunk = pairs[start : start + size]
        values = walk([(place, targets[place][k]) for place, k in chunk], stepper())
        for (place, k), value in zip(chunk, values, strict=True):
            found[place][k] = value
    return found


def rows_at_once(config: Any, length: int) -> int:
    """Targets of one walk: their logits, and what a decoder keeps of texts of that many tokens, are bounded."""
    layers = getattr(config, "num_decoder_layers", None) or config.num_hidden_layers
    kept = 2 * layers * length * config.hidden_size
    return max(1, min(MAX_LOGITS // config.vocab_size, MAX_KEPT // kept))
