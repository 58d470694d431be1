"""A decoder reads a prompt once and each of its targets behind it: with gradients in training, without when asked.

Knows no tokenizer, recipe or loss.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from understudy.models.likelihood import IGNORE

__all__ = ["logits_behind", "positions", "prompts_and_targets", "reads_on"]

Inputs = dict[str, Any]


def reads_on(model: Any) -> bool:
    """Whether the model can be given several tokens behind what it keeps of those that it has read.

    What a recurrent layer keeps is a state: it goes on from there by one token, and not by several.
    """
    accepted = inspect.signature(model.forward).parameters
    return "past_key_values" in accepted and not getattr(model, "_is_stateful", False)


def positions(mask: Tensor) -> Tensor:
    """The place of each token among those that are no padding, 0 for padding before them: (B, T) -> (B, T)."""
    return (mask.cumsum(-1) - 1).clamp_min(0)


def prompts_and_targets(
    ids: Tensor, mask: Tensor, owners: Tensor, labels: Tensor, accepted: Collection[str]
) -> tuple[Inputs, Inputs]:
    """A model's arguments for its prompts, padded on the left, and for all targets but their last tokens.

    Shapes: prompts and their mask (P, T), the prompt of each target (R,), the targets (R, S), IGNORE behind their ends.
    `accepted` are names of arguments that the model takes.
    """
    own = labels[:, :-1].ne(IGNORE).to(mask.dtype)
    whole = torch.cat([mask[owners], own], 1)  # (R, T + S - 1)
    first: Inputs = {"input_ids": ids, "attention_mask": mask}
    second: Inputs = {"input_ids": labels[:, :-1].clamp_min(0), "attention_mask": whole}
    if "position_ids" in accepted:
        first["position_ids"], second["position_ids"] = positions(mask), positions(whole)[:, mask.shape[1] :]
    if "logits_to_keep" in accepted:
        first["logits_to_keep"] = 1
    return first, second


def logits_behind(model: Any, prompts: Inputs, owners: Tensor, targets: Inputs) -> Tensor:
    """The logits that predict each target's tokens, of the arguments above: (R, S, V)."""
    read = model(**prompts, use_cache=True)
    logits: Tensor = read.logits[owners, -1:]
    if targets["input_ids"].shape[1]:  # else every target is one token
        kept = read.past_key_values
        kept.reorder_cache(owners)
        logits = torch.cat([logits, model(**targets, past_key_values=kept, use_cache=True).logits], 1)
    return logits
