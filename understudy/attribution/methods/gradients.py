"""Gradients of what is explained with respect to the input embeddings: one backward pass, or one for each row.

The embeddings are a leaf of their own and the parameters are frozen, so no weight gradient is ever computed, and an
embedding table that a decoder shares collects nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["gradients", "row_gradients"]


def gradients(adapter: Adapter, batch: Batch, embeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The embeddings and the gradient of `adapter.objective(batch)` there: 2 x (B, T, D).

    `embeds` are other embeddings than the batch's own to take the gradient at, such as noisy ones.
    """
    leaf = (adapter.embed(batch.ids) if embeds is None else embeds).detach().requires_grad_()
    with torch.enable_grad():
        explained = adapter.objective(batch)(leaf, *batch.rows)  # (B,)
    # A sum over examples: none of them depends on another's embeddings.
    (found,) = torch.autograd.grad(explained.sum(), leaf)
    return leaf.detach(), found


def row_gradients(adapter: Adapter, batch: Batch) -> tuple[Tensor, Tensor]:
    """The embeddings (B, T, D), and the gradient of each target token's logit: (S, B, T, D), from one forward pass."""
    leaf = adapter.embed(batch.ids).detach().requires_grad_()
    with torch.enable_grad():
        scores = adapter.token_scores(leaf, batch.mask, batch.labels)  # (B, S)
    last = scores.shape[1] - 1
    found = [torch.autograd.grad(scores[:, s].sum(), leaf, retain_graph=s < last)[0] for s in range(last + 1)]
    return leaf.detach(), torch.stack(found)
