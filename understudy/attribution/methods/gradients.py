"""Gradients of what is explained with respect to the input embeddings: at the input, at other points, for each row.

The embeddings are a leaf of their own and the parameters are frozen, so no weight gradient is ever computed, and an
embedding table that a decoder shares collects nothing. Gradients come in float32 at least, whatever the model computes
in, because what is summed next would lose its small terms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["gradients", "gradients_at", "row_gradients", "widened"]


def gradients(adapter: Adapter, batch: Batch) -> tuple[Tensor, Tensor]:
    """The embeddings and the gradient of `adapter.objective(batch)` there: 2 x (B, T, D)."""
    embeds = adapter.embed(batch.ids).detach()
    (found,) = gradients_at(adapter, batch, [embeds])
    return widened(embeds), found


def gradients_at(adapter: Adapter, batch: Batch, points: Iterable[Tensor]) -> Iterator[Tensor]:
    """The gradient at each point, a (B, T, D) tensor that stands in for the batch's own embeddings.

    Points x rows share a forward pass, as many as the adapter's token budget allows; no more of them are in memory.
    """
    objective = adapter.objective(batch)
    most = max(1, adapter.max_padded_tokens // batch.ids.numel())
    waiting = iter(points)
    while chunk := list(islice(waiting, most)):
        leaf = torch.cat(chunk).detach().requires_grad_()
        with torch.enable_grad():
            explained = objective(leaf, *(row.repeat(len(chunk), 1) for row in batch.rows))
        # A sum over examples: none of them depends on another's embeddings.
        (found,) = torch.autograd.grad(explained.sum(), leaf)
        yield from widened(found).chunk(len(chunk))


def row_gradients(adapter: Adapter, batch: Batch) -> tuple[Tensor, Iterator[Tensor]]:
    """The embeddings, (B, T, D), and the gradient of each target token's logit, S times the same shape.

    One forward pass serves all of them; one gradient is in memory at a time.
    """
    leaf = adapter.embed(batch.ids).detach().requires_grad_()
    with torch.enable_grad():
        scores = adapter.token_scores(leaf, batch.mask, batch.labels)  # (B, S)
    last = scores.shape[1] - 1
    found = (torch.autograd.grad(scores[:, s].sum(), leaf, retain_graph=s < last)[0] for s in range(last + 1))
    return widened(leaf.detach()), map(widened, found)


def widened(values: Tensor) -> Tensor:
    """The same values in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
