"""Input x gradient: what each token contributes to the score in a linear picture of the model.

Signed: a negative word speaks against the explained answer. As cheap as saliency.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic.dataclasses import dataclass

from understudy.attribution.methods.registry import METHODS, SETTINGS

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["InputXGradient"]


@METHODS.register("input_x_gradient")
@dataclass(frozen=True, config=SETTINGS)
class InputXGradient:
    unit: ClassVar[Literal["token", "word"]] = "token"
    complete: ClassVar[bool] = False

    def __call__(self, adapter: Adapter, batch: Batch) -> Tensor:
        from understudy.attribution.methods.gradients import gradients

        embeds, gradient = gradients(adapter, batch)
        return (embeds * gradient).sum(-1)

    def rows(self, adapter: Adapter, batch: Batch) -> Tensor:
        return self.map_and_rows(adapter, batch)[1]

    def map_and_rows(self, adapter: Adapter, batch: Batch) -> tuple[Tensor, Tensor]:
        from understudy.attribution.methods.gradients import mean_and_rows

        return mean_and_rows(adapter, batch, lambda embeds, gradient: (embeds * gradient).sum(-1))
