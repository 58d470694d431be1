"""One map for each token of the explained answer, for methods that know no shorter way than to be asked for each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.attribution.methods.registry import Method
    from understudy.models.base import Adapter, Batch

__all__ = ["by_token"]


def by_token(method: Method, adapter: Adapter, batch: Batch) -> Tensor:
    """(S, B, T): the method's map of each target token's logit; zero where no example's own token is."""
    counts = adapter.own(batch.labels).any(0).tolist()
    found = {s: method(adapter, replace(batch, token=s)) for s, own in enumerate(counts) if own}
    nothing = torch.zeros_like(next(iter(found.values())))
    return torch.stack([found.get(s, nothing) for s in range(len(counts))])
