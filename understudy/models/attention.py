"""The attention weights of one forward pass, as the mean over the heads of each layer. Knows no architecture.

The fused kernels that models run with return no weights, so one pass runs with the plain implementation.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

__all__ = ["Attention", "head_means", "with_attention"]


@dataclass(frozen=True)
class Attention:
    """Where a model looks, layer by layer, and where it reads the answer from.

    `layers` are (B, T', T') each, from the input's side on; a row is what one token takes from the others. `reading` is
    (B, S, T'): the share of each token in what says the answer's tokens, zero for tokens that an answer does not have.
    T' is T, or more where the answer itself stands behind the input.
    """

    layers: Sequence[Tensor]
    reading: Tensor


def with_attention(model: Any, **inputs: Any) -> Any:
    """The model's outputs with all attention weights it can give; its kernels are afterwards what they were."""
    parameters = inspect.signature(model.forward).parameters
    open_ = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    asked = {"output_attentions": True} if open_ or "output_attentions" in parameters else {}
    with _eager(model), torch.inference_mode():
        return model(**inputs, **asked)


def head_means(outputs: Any, field: str) -> list[Tensor]:
    """The mean over the heads of each layer, (B, Q, K), in float32 at least; empty where the model gives no weights."""
    layers = getattr(outputs, field, None) or ()
    if not all(isinstance(weights, Tensor) and weights.dim() == 4 for weights in layers):
        return []
    return [weights.to(torch.promote_types(weights.dtype, torch.float32)).mean(1) for weights in layers]


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    parts = [model, *(part for part in model.modules() if isinstance(part, PreTrainedModel))]
    configs = list({id(part.config): part.config for part in parts}.values())
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = "eager"
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation
