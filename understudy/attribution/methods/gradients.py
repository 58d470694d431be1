"""Gradients of what is explained with respect to the input embeddings: at the input, at other points, for each row.

The embeddings are a leaf of their own and the parameters are frozen, so no weight gradient is ever computed, and an
embedding table that a decoder shares collects nothing. Gradients come in float32 at least, whatever the model computes
in, because what is summed next would lose its small terms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["gradients", "gradients_at", "mean_and_rows", "row_gradients", "widened"]


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
    most = max(1, adapter.rows_of_a_pass(batch) // len(batch.ids))
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

    One forward pass serves all of them; one gradient is in memory at a time. A column of which no example's own token
    is there, such as that of the token that ends an answer, costs nothing and is zero.
    """
    leaf = adapter.embed(batch.ids).detach().requires_grad_()
    with torch.enable_grad():
        scores = adapter.token_scores(leaf, batch.mask, batch.labels)  # (B, S)
    counts = adapter.own(batch.labels).any(0).tolist()
    last = max((s for s, own in enumerate(counts) if own), default=0)
    found = (
        torch.autograd.grad(scores[:, s].sum(), leaf, retain_graph=s < last)[0] if own else torch.zeros_like(leaf)
        for s, own in enumerate(counts)
    )
    return widened(leaf.detach()), map(widened, found)


def mean_and_rows(adapter: Adapter, batch: Batch, scored: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """What `scored(embeds, gradient)` makes of the mean target logit's gradient, (B, T), and of each row's, (S, B, T).

    The gradient of a mean is the mean of the gradients: the map costs nothing beside its rows.
    """
    embeds, found = row_gradients(adapter, batch)
    total, rows = torch.zeros_like(embeds), []
    for gradient in found:
        total += gradient
        rows.append(scored(embeds, gradient))
    own = adapter.own(batch.labels).sum(-1).view(-1, 1, 1)
    return scored(embeds, total / own), torch.stack(rows)


def widened(values: Tensor) -> Tensor:
    """The same values in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
