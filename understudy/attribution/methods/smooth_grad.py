"""SmoothGrad: saliency of the mean gradient over noisy copies of the text (Smilkov et al. 2017, arXiv 1706.03825).

The gradient is averaged before the norm is taken, so that what points in all directions cancels. The noise is a share
of the standard deviation of the text's own embeddings; the paper's measure, their range, is set by a few outlying
dimensions of a language model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from understudy.attribution.methods.registry import METHODS, SETTINGS

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["SmoothGrad"]


@METHODS.register("smooth_grad")
@dataclass(frozen=True, config=SETTINGS)
class SmoothGrad:
    """`n_samples` passes an example; `noise` is a share of the embeddings' standard deviation."""

    unit: ClassVar[Literal["token", "word"]] = "token"
    complete: ClassVar[bool] = False

    n_samples: Annotated[int, Field(ge=1, le=1000)] = 10
    noise: Annotated[float, Field(ge=0, le=10)] = 0.25
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    norm: Literal["l1", "l2"] = "l1"

    def __call__(self, adapter: Adapter, batch: Batch) -> Tensor:
        from understudy.attribution.methods.gradients import gradients_at
        from understudy.attribution.methods.noise import generators, spread, text_noise

        embeds = adapter.embed(batch.ids).detach()  # (B, T, D)
        scale = self.noise * spread(batch, embeds)
        copies = (
            embeds + scale * text_noise(batch, generators(batch, self.seed, sample), embeds)
            for sample in range(self.n_samples)
        )
        total = sum(gradients_at(adapter, batch, copies), embeds.new_zeros(()))
        return (total / self.n_samples).norm(1 if self.norm == "l1" else 2, dim=-1)

    def rows(self, adapter: Adapter, batch: Batch) -> Tensor:
        from understudy.attribution.methods.rows import by_token

        return by_token(self, adapter, batch)
