"""Saliency: how strongly the score reacts to each token, as in arXiv 2409.12586.

The importance of a token is the L1 norm, over the embedding's dimensions, of the gradient of the mean target logit.
One forward and one backward pass; never negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from understudy.attribution.methods.registry import METHODS

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["Saliency"]


@METHODS.register("saliency")
@dataclass(frozen=True)
class Saliency:
    def __call__(self, adapter: Adapter, batch: Batch) -> Tensor:
        from captum.attr import Saliency as Captum

        embeds = adapter.embed(batch.ids).detach().requires_grad_()  # (B, T, D)
        gradients = Captum(adapter.score).attribute(
            embeds, abs=True, additional_forward_args=(batch.mask, batch.labels)
        )
        return gradients.detach().sum(-1)
