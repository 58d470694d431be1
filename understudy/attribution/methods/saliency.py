"""Saliency: how strongly the score reacts to each token, as in arXiv 2409.12586.

The importance of a token is the norm, over the embedding's dimensions, of the gradient of the mean target logit: L1 in
that paper, L2 in others. One forward and one backward pass; never negative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic.dataclasses import dataclass

from understudy.attribution.methods.registry import METHODS, SETTINGS

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["Saliency"]


@METHODS.register("saliency")
@dataclass(frozen=True, config=SETTINGS)
class Saliency:
    unit: ClassVar[Literal["token", "word"]] = "token"
    complete: ClassVar[bool] = False

    norm: Literal["l1", "l2"] = "l1"

    def __call__(self, adapter: Adapter, batch: Batch) -> Tensor:
        from understudy.attribution.methods.gradients import gradients

        return self._normed(gradients(adapter, batch)[1])

    def rows(self, adapter: Adapter, batch: Batch) -> Tensor:
        return self.map_and_rows(adapter, batch)[1]

    def map_and_rows(self, adapter: Adapter, batch: Batch) -> tuple[Tensor, Tensor]:
        from understudy.attribution.methods.gradients import mean_and_rows

        return mean_and_rows(adapter, batch, lambda _, gradient: self._normed(gradient))

    def _normed(self, gradient: Tensor) -> Tensor:
        return gradient.norm(1 if self.norm == "l1" else 2, dim=-1)
