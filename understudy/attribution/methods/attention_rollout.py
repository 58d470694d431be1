"""Attention rollout: what reaches the answer when attention is multiplied through the layers.

Half of each layer is attention, the mean over its heads, and half is what the residual connection carries past it
(Abnar and Zuidema 2020, arXiv 2005.00928). It is read where the model reads: an encoder's pooled tokens, the decoder's
mean attention to the text for an encoder-decoder, the positions that predict the answer for a decoder. No gradient;
never negative. It shows where the model looks, which need not be why it answers, and so cannot compare two answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic.dataclasses import dataclass

from understudy.attribution.methods.registry import METHODS, SETTINGS
from understudy.errors import InvalidRequest, ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["AttentionRollout"]


@METHODS.register("attention_rollout")
@dataclass(frozen=True, config=SETTINGS)
class AttentionRollout:
    unit: ClassVar[Literal["token", "word"]] = "token"
    complete: ClassVar[bool] = False

    def __call__(self, adapter: Adapter, batch: Batch) -> Tensor:
        """Raises InvalidRequest for two answers that are compared, ModelError for a model without attention weights."""
        rows = self.rows(adapter, batch)
        if batch.token is not None:
            return rows[batch.token]
        return rows.sum(0) / adapter.own(batch.labels).sum(-1, keepdim=True)

    def rows(self, adapter: Adapter, batch: Batch) -> Tensor:
        if batch.against is not None:
            raise InvalidRequest(
                "the method 'attention_rollout' shows where the model looks and cannot compare two answers: choose "
                "occlusion or a gradient method",
                param="against",
            )
        attention = adapter.attention(batch)
        if attention is None:
            raise ModelError(
                f"the method 'attention_rollout' needs attention weights, and a {type(adapter.model).__name__} gives "
                "none: choose another method",
                param="method",
            )
        flow = attention.reading  # (B, S, T')
        for layer in reversed(attention.layers):
            flow = (flow + flow @ layer) / 2
        return flow[:, :, : batch.ids.shape[1]].transpose(0, 1)
