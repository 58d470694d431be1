"""What logits say of a target: its score, its log-probability, the probability of what was written."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

__all__ = [
    "IGNORE",
    "GreedySteps",
    "broke_off",
    "counted",
    "likeliest_tokens",
    "path_probabilities",
    "sum_log_probabilities",
    "target_logits",
]

IGNORE = -100
"""The label of a position that is not scored, as everywhere in transformers."""


def target_logits(logits: Tensor, labels: Tensor, own: Tensor) -> Tensor:
    """The logit of each labelled token that is the target's own, zero elsewhere: (B, S, V), 2 x (B, S) -> (B, S)."""
    return _picked(logits, labels).masked_fill(~own, 0)


def sum_log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """The log-probability of each row's labelled tokens, not normalised by their number: (B, S, V), (B, S) -> (B,)."""
    picked = _picked(logits, labels)  # (B, S)
    every = picked - logits.to(picked.dtype).logsumexp(-1)
    return every.masked_fill(labels.eq(IGNORE), 0).sum(-1)


def counted(labels: Tensor, given: Sequence[int]) -> Tensor:
    """The labels without the tokens that each row begins with and that count for nothing: (B, S) -> (B, S)."""
    places = torch.arange(labels.shape[1], device=labels.device)
    return labels.masked_fill(places < torch.tensor(given, device=labels.device).unsqueeze(-1), IGNORE)


def likeliest_tokens(logits: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Probabilities and ids of the likeliest tokens at each place, the likeliest first: (B, S, V) -> 2 x (B, S, most).

    Probabilities are of the whole vocabulary, in float32 at least; a smaller vocabulary has no more than it has.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    values, ids = wide.topk(min(most, logits.shape[-1]), dim=-1)
    return (values - wide.logsumexp(-1, keepdim=True)).exp(), ids


class GreedySteps(LogitsProcessor):
    """Keeps the log-probability of each step's likeliest token, (B,), while `generate` writes.

    `output_logits` would keep the whole vocabulary of every step: gigabytes for a batch of short texts.
    """

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        self.steps.append(scores.float().log_softmax(-1).amax(-1))
        return scores


def path_probabilities(steps: Sequence[Tensor], written: Tensor, ends: Collection[int]) -> list[float]:
    """The probability of each written row (B, S) up to its first end token, from each step's log-probabilities (B,)."""
    total = torch.zeros(len(written), dtype=torch.float64, device=written.device)
    open_ = torch.ones(len(written), dtype=torch.bool, device=written.device)
    stops = torch.tensor(sorted(ends), device=written.device)
    for step, ids in zip(steps, written.T, strict=True):
        total += step.masked_fill(~open_, 0)
        open_ &= ~torch.isin(ids, stops)
    return [float(value) for value in total.exp()]


def broke_off(written: Tensor, ends: Collection[int]) -> list[bool]:
    """Whether each written row (B, S) has none of the tokens that end a text."""
    found: list[bool] = (~torch.isin(written, torch.tensor(sorted(ends), device=written.device)).any(-1)).tolist()
    return found


def _picked(logits: Tensor, labels: Tensor) -> Tensor:
    """The labelled tokens' logits, in float32 at least: (B, S)."""
    picked = logits.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return picked if picked.dtype == torch.float64 else picked.float()
