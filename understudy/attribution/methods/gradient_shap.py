"""Gradient SHAP: integrated gradients at random points from random inputs that say nothing (Lundberg and Lee 2017).

Each sample draws an input that says nothing, the adapter's `baseline` with noise, and a point on the way from it to the
example. Signed, and complete in expectation: the completeness error says whether there were samples enough. Template
and special tokens score exactly zero, because they are the same at both ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import tee
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from understudy.attribution.methods.registry import METHODS, SETTINGS

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["GradientShap"]


@METHODS.register("gradient_shap")
@dataclass(frozen=True, config=SETTINGS)
class GradientShap:
    """`n_samples` passes an example; `noise` is a share of the standard deviation of the text's embeddings."""

    unit: ClassVar[Literal["token", "word"]] = "token"
    complete: ClassVar[bool] = True

    n_samples: Annotated[int, Field(ge=1, le=1000)] = 20
    noise: Annotated[float, Field(ge=0, le=10)] = 0.1
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    def __call__(self, adapter: Adapter, batch: Batch) -> Tensor:
        from understudy.attribution.methods.gradients import gradients_at, widened

        embeds = adapter.embed(batch.ids).detach()  # (B, T, D)
        drawn, again = tee(self._draws(adapter, batch, embeds))
        points = (start + share * (embeds - start) for start, share in drawn)
        parts = (
            (widened(embeds - start) * gradient).sum(-1)
            for gradient, (start, _) in zip(gradients_at(adapter, batch, points), again, strict=True)
        )
        return sum(parts, embeds.new_zeros(())) / self.n_samples

    def rows(self, adapter: Adapter, batch: Batch) -> Tensor:
        from understudy.attribution.methods.rows import by_token

        return by_token(self, adapter, batch)

    def _draws(self, adapter: Adapter, batch: Batch, embeds: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Where each sample starts, (B, T, D), and how far along it looks, (B, 1, 1)."""
        from understudy.attribution.methods.noise import generators, shares, spread, text_noise

        baseline = adapter.baseline(batch).detach()
        scale = self.noise * spread(batch, embeds)
        for sample in range(self.n_samples):
            sources = generators(batch, self.seed, sample)
            # One in each n-th of the way: as unbiased as points that may cluster, and closer to the mean.
            share = (sample + shares(sources, embeds)) / self.n_samples
            yield baseline + scale * text_noise(batch, sources, embeds), share
