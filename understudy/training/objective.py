"""The objective: runs a student on the views of a batch and adds up its recipe's losses, one number an example.

Everything is a sum over examples of something that depends on one example, so batches may be cut as the memory wants.
Knows nothing of optimisers, of checkpoints or of how the views were made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from understudy.training.collate import Tensors
from understudy.training.losses import (
    cross_entropy,
    distillation,
    gate_cross_entropy,
    mixture,
    sequence_log_likelihood,
)
from understudy.training.recipes import Recipe

__all__ = ["TEACHER_SHARE", "TEMPERATURE", "TERMS", "Objective", "Step"]

TEMPERATURE = 2.0
TEACHER_SHARE = 0.5
"""Of the label's loss, how much the teacher's distribution takes over."""


@dataclass(frozen=True)
class Step:
    """A batch, the model, and what the model answered to the label view."""

    model: Any
    batch: Tensors
    outputs: Any
    rationale_weight: float


def _distribution(loss: Tensor, step: Step) -> Tensor:
    """Half of the label's loss gives way to the distance from the teacher's distribution."""
    found = step.batch["distribution"]
    scores = step.outputs.logits if step.outputs.logits.dim() == 2 else _candidate_scores(step)
    teacher = distillation(scores, found["probabilities"], TEMPERATURE, found["mask"])
    return mixture(loss, teacher, TEACHER_SHARE, found["present"])


def _candidate_scores(step: Step) -> Tensor:
    """The log-likelihood of every candidate, (B, C): the decoder runs once over all, the encoder not again."""
    found = step.batch["distribution"]
    owners, mask = found["owners"], step.batch["label"]["inputs"]["attention_mask"]
    states = step.outputs.encoder_last_hidden_state  # (B, T, D)
    logits = step.model(
        encoder_outputs=BaseModelOutput(last_hidden_state=states[owners]),
        attention_mask=mask[owners],
        decoder_input_ids=found["decoder_input_ids"],
    ).logits  # (N, S, V)
    scores = torch.zeros(found["mask"].shape, dtype=logits.dtype, device=logits.device)
    return scores.index_put((owners, found["places"]), sequence_log_likelihood(logits, found["labels"]))


def _gate(loss: Tensor, step: Step) -> Tensor:
    found = step.batch["gate"]
    return loss + step.rationale_weight * gate_cross_entropy(step.outputs.gate_logits, found["targets"], found["mask"])


def _explanation(loss: Tensor, step: Step) -> Tensor:
    found = step.batch["explanation"]
    losses = cross_entropy(step.model(**found["inputs"]).logits, found["labels"])
    return loss.index_add(0, found["rows"], step.rationale_weight * losses)


TERMS: dict[str, Callable[[Tensor, Step], Tensor]] = {
    "distribution": _distribution,  # first: it shares the label's loss, the others are added to that
    "gate": _gate,
    "explanation": _explanation,
}


class Objective:
    """`objective(model, batch)` is each example's loss under the recipe: (B,)."""

    def __init__(self, recipe: Recipe, rationale_weight: float) -> None:
        self.terms = {name: term for name, term in TERMS.items() if name in recipe.terms}
        self.rationale_weight = rationale_weight

    def __call__(self, model: Any, batch: Tensors) -> Tensor:
        outputs = model(**batch["label"]["inputs"])
        loss = cross_entropy(outputs.logits, batch["label"]["labels"])
        step = Step(model, batch, outputs, self.rationale_weight)
        for name, term in self.terms.items():
            if name in batch:  # absent where no example of this batch has it
                loss = term(loss, step)
        return loss
