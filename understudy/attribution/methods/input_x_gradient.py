"""Input x gradient: what each token contributes to the score in a linear picture of the model.

Signed: a negative word speaks against the explained answer. As cheap as saliency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from understudy.attribution.methods.registry import METHODS

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["InputXGradient"]


@METHODS.register("input_x_gradient")
@dataclass(frozen=True)
class InputXGradient:
    def __call__(self, adapter: Adapter, batch: Batch) -> Tensor:
        from captum.attr import InputXGradient as Captum

        embeds = adapter.embed(batch.ids).detach().requires_grad_()  # (B, T, D)
        products = Captum(adapter.score).attribute(embeds, additional_forward_args=(batch.mask, batch.labels))
        return products.detach().sum(-1)
