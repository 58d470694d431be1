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
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.modeling_outputs import BaseModelOutput

from understudy.models.embeddings import embed
from understudy.models.read_on import logits_behind
from understudy.training.collate import Tensors
from understudy.training.losses import (
    alignment,
    cross_entropy,
    distillation,
    marks_cross_entropy,
    mixture,
    sequence_log_likelihood,
    token_distillation,
    word_norms,
)
from understudy.training.recipes import Recipe

__all__ = ["STEP_BY_STEP_SHARE", "TEACHER_SHARE", "TEMPERATURE", "TERMS", "Objective", "Step"]

TEMPERATURE = 2.0
TEACHER_SHARE = 0.5
"""Of the label's loss, how much the teacher's distribution takes over."""
STEP_BY_STEP_SHARE = 0.5
"""1 - alpha of Distilling Step-by-Step (arXiv 2305.02301): the free text's share of the loss."""


@dataclass(frozen=True)
class Step:
    """A batch, the model, and what the model answered to the label view.

    `embeds` are the embeddings that the label view was read from, where a loss on the student's own map needs them.
    """

    model: Any
    batch: Tensors
    outputs: Any
    recipe: Recipe
    rationale_weight: float
    embeds: Tensor | None = None


def _distribution(loss: Tensor, step: Step) -> Tensor:
    """Half of the label's loss gives way to the distance from the teacher's distribution."""
    found = step.batch["distribution"]
    if "ids" in found:  # of an open answer's tokens
        teacher = token_distillation(
            step.outputs.logits, found["ids"], found["probabilities"], found["mask"], TEMPERATURE
        )
        return mixture(loss, teacher, TEACHER_SHARE, found["present"])
    scores = step.outputs.logits if step.outputs.logits.dim() == 2 else _candidate_scores(step)
    teacher = distillation(scores, found["probabilities"], TEMPERATURE, found["mask"])
    return mixture(loss, teacher, TEACHER_SHARE, found["present"])


def _candidate_scores(step: Step) -> Tensor:
    """The log-likelihood of every candidate, (B, C)."""
    found = step.batch["distribution"]
    if "prompts" in found:
        logits = logits_behind(step.model, found["prompts"], found["behind"], found["targets"])  # (N, S, V)
    else:
        logits = step.model(**found["inputs"]).logits if "inputs" in found else _decoded(step)
    scores = torch.zeros(found["mask"].shape, dtype=logits.dtype, device=logits.device)
    return scores.index_put((found["owners"], found["places"]), sequence_log_likelihood(logits, found["labels"]))


def _decoded(step: Step) -> Tensor:
    """The logits of all candidates: the decoder runs once over them, the encoder not again."""
    found = step.batch["distribution"]
    owners, mask = found["owners"], step.batch["label"]["inputs"]["attention_mask"]
    states = step.outputs.encoder_last_hidden_state  # (B, T, D)
    logits: Tensor = step.model(
        encoder_outputs=BaseModelOutput(last_hidden_state=states[owners]),
        attention_mask=mask[owners],
        decoder_input_ids=found["decoder_input_ids"],
    ).logits
    return logits


def _marks(loss: Tensor, step: Step) -> Tensor:
    found = step.batch["marks"]
    return loss + step.rationale_weight * marks_cross_entropy(step.outputs.gate_logits, found["targets"], found["mask"])


def _explanation(loss: Tensor, step: Step) -> Tensor:
    found = step.batch["explanation"]
    losses = cross_entropy(step.model(**found["inputs"]).logits, found["labels"])
    if step.recipe.reads("text"):
        every = torch.zeros_like(loss).index_copy(0, found["rows"], losses)
        present = torch.zeros_like(loss).index_fill(0, found["rows"], 1.0)
        return mixture(loss, every, STEP_BY_STEP_SHARE, present)
    return loss.index_add(0, found["rows"], step.rationale_weight * losses)


def _input(loss: Tensor, step: Step) -> Tensor:
    found = step.batch["input"]
    losses = cross_entropy(step.model(**found["inputs"]).logits, found["labels"])
    return loss.index_add(0, found["rows"], step.rationale_weight * losses)


def _alignment(loss: Tensor, step: Step) -> Tensor:
    """The student's map is the teacher's method on itself: the L1 norm of the gradient of the answer's mean logit."""
    found = step.batch["map"]
    labels, logits = step.batch["label"]["labels"], step.outputs.logits
    picked = logits.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)  # (B,) or (B, S)
    if picked.dim() == 2:
        picked = picked.masked_fill(~found["own"], 0).sum(-1) / found["own"].sum(-1).clamp_min(1)
    (gradients,) = torch.autograd.grad(picked.sum(), step.embeds, create_graph=True)  # type: ignore[arg-type]
    student = word_norms(gradients, found["owners"], found["scores"].shape[1])
    return loss + step.rationale_weight * found["present"] * alignment(student, found["scores"])


TERMS: dict[str, tuple[str, Callable[[Tensor, Step], Tensor]]] = {
    "distribution": ("distribution", _distribution),  # first: it shares the label's loss, the others are added to that
    "gate": ("marks", _marks),
    "tags": ("marks", _marks),
    "explanation": ("explanation", _explanation),
    "input": ("input", _input),
    "alignment": ("map", _alignment),
}
"""Of each term: the part of the batch that it reads, and what it makes of the loss."""


class Objective:
    """`objective(model, batch)` is each example's loss under the recipe: (B,)."""

    def __init__(self, recipe: Recipe, architecture: str, rationale_weight: float) -> None:
        self.recipe = recipe
        self.terms = [TERMS[name] for name in TERMS if name in recipe.terms(architecture)]
        self.rationale_weight = rationale_weight

    def __call__(self, model: Any, batch: Tensors) -> Tensor:
        if "map" not in batch:
            return self._losses(model, batch, model(**batch["label"]["inputs"]))
        # The fast kernels of attention have a first derivative only.
        with sdpa_kernel(SDPBackend.MATH):
            inputs = dict(batch["label"]["inputs"])
            embeds = _embed(model, inputs.pop("input_ids"))
            return self._losses(model, batch, model(inputs_embeds=embeds, **inputs), embeds)

    def _losses(self, model: Any, batch: Tensors, outputs: Any, embeds: Tensor | None = None) -> Tensor:
        loss = cross_entropy(outputs.logits, batch["label"]["labels"])
        step = Step(model, batch, outputs, self.recipe, self.rationale_weight, embeds)
        for part, term in self.terms:
            if part in batch:  # absent where no example of this batch has it
                loss = term(loss, step)
        return loss


def _embed(model: Any, ids: Tensor) -> Tensor:
    """Input embeddings that gradients can be taken at: (B, T) -> (B, T, D)."""
    embeds = embed(getattr(model, "module", model), ids)  # several devices each hold the model in a shell
    return embeds if embeds.requires_grad else embeds.requires_grad_()  # low-rank adapters leave the table frozen
