"""Losses: pure functions from tensors to one number an example. They know no model, recipe or batch size.

Each returns (B,): an example's loss depends on nothing but that example. The trainer sums them and divides by the
number of examples of the whole optimisation step, so padding, the order within a batch and gradient accumulation change
nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.models.likelihood import IGNORE

__all__ = [
    "alignment",
    "cross_entropy",
    "distillation",
    "marks_cross_entropy",
    "mixture",
    "sequence_log_likelihood",
    "token_distillation",
    "word_norms",
]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over each example's own targets: (B, L), (B,) for one class, (B, S, V), (B, S) for a text."""
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels, reduction="none")  # (B,)
    losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")  # (B, S)
    return losses.sum(-1) / (labels != IGNORE).sum(-1).clamp(min=1)


def sequence_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each target text, summed over its tokens: (B, S, V), (B, S) -> (B,)."""
    return -F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none").sum(-1)


def marks_cross_entropy(gate_logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy of each token's gate, mean over the tokens in `mask`: three of (B, T) -> (B,).

    `mask` is 0 on padding, special and template tokens, which can be no reason. An example without any token in it
    costs nothing.
    """
    real = gate_logits.masked_fill(mask == 0, 0)  # a gate on padding may be as low as its dtype goes
    targets = targets.to(torch.promote_types(real.dtype, targets.dtype))  # the loss is computed in the dtype of these
    losses = F.binary_cross_entropy_with_logits(real, targets, reduction="none") * mask  # (B, T)
    return losses.sum(-1) / mask.sum(-1).clamp(min=1)


def distillation(scores: Tensor, probabilities: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """T^2 x KL(teacher || student) over each example's candidates, both softened by T: two of (B, C) -> (B,).

    `scores` are the student's logits or log-likelihoods. The factor T^2 keeps the gradient's size when T changes
    (Hinton et al. 2015, section 2). `mask` is 0 where an example has no such candidate.
    """
    lowest = torch.finfo(scores.dtype).min / 2  # not -inf: 0 x inf is nan
    exists = torch.ones_like(probabilities) if mask is None else mask
    log_student = (scores / temperature).masked_fill(exists == 0, lowest).log_softmax(-1)
    teacher = (probabilities.log() / temperature).masked_fill(exists == 0, -torch.inf).softmax(-1)
    return temperature**2 * F.kl_div(log_student, teacher, reduction="none").sum(-1)


def token_distillation(logits: Tensor, ids: Tensor, probabilities: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """`distillation` at each place of a text, the mean over an example's own places: (B, S, V), 3 x (B, S, N) -> (B,).

    Word-level distillation (Kim and Rush 2016, arXiv 1606.07947, section 3.1) along the right answer, truncated: of a
    place only the teacher's N likeliest tokens are known, `ids`, and both distributions are taken among these, brought
    to sum 1 after they are softened. What a student gives to other tokens is the label's loss alone to correct. Where
    `mask` is 0 there is no such token; a place without any, padding among them, does not count.
    """
    known = mask.any(-1)  # (B, S)
    exists = mask.where(known.unsqueeze(-1), 1).flatten(0, 1)
    scores = logits.gather(-1, ids).flatten(0, 1)  # (B x S, N)
    found = distillation(scores, probabilities.flatten(0, 1), temperature, exists)
    return found.view(known.shape).masked_fill(~known, 0).sum(-1) / known.sum(-1).clamp(min=1)


def word_norms(gradients: Tensor, owners: Tensor, words: int) -> Tensor:
    """The L1 norm of each word's gradients, summed over its tokens: (B, T, D), (B, T) -> (B, words).

    Tokens whose owner is `words` belong to none.
    """
    norms = gradients.abs().sum(-1)  # (B, T)
    sums = norms.new_zeros(len(norms), words + 1).scatter_add(1, owners, norms)
    return sums[:, :words]


def alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of two maps that are brought to length 1: two of (B, W) -> (B,), between 0 and 2.

    AD-KD (Wu et al. 2023, arXiv 2305.10010, section 3.3) compares maps of length 1, so that only their shape counts.
    The gradient of a length is not defined at 0; a map without any score stays where it is.
    """
    length = student.square().sum(-1, keepdim=True).clamp_min(torch.finfo(student.dtype).tiny).sqrt()
    return (student / length - teacher).square().sum(-1)


def mixture(label: Tensor, teacher: Tensor, share: float, present: Tensor) -> Tensor:
    """`share` of the teacher's loss, the rest of the label's; where the teacher said nothing, the label's alone."""
    weight = share * present
    return (1 - weight) * label + weight * teacher
