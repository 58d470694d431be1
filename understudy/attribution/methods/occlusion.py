"""Occlusion: how much of the score goes when one word is left out. Needs no gradient.

The word's tokens leave the text, which closes up; nothing is decoded or tokenised again. Signed: a word without which
the score would be higher is negative. One pass for each word of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic.dataclasses import dataclass

from understudy.attribution.methods.registry import METHODS, SETTINGS

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["Occlusion"]


@METHODS.register("occlusion")
@dataclass(frozen=True, config=SETTINGS)
class Occlusion:
    unit: ClassVar[Literal["token", "word"]] = "word"
    complete: ClassVar[bool] = False

    def __call__(self, adapter: Adapter, batch: Batch) -> Tensor:
        return _losses(adapter, batch, adapter.objective(batch), batch.rows)

    def rows(self, adapter: Adapter, batch: Batch) -> Tensor:
        """What each token of the answer loses without each word: (S, B, W)."""
        return _losses(adapter, batch, adapter.token_scores, (batch.mask, batch.labels)).movedim(-1, 0)


def _losses(adapter: Adapter, batch: Batch, objective: Callable[..., Tensor], rows: Sequence[Tensor]) -> Tensor:
    """What an objective of (B,) or (B, S) loses without each word: (B, W) or (B, W, S)."""
    import torch

    from understudy.models.passes import in_batches

    cuts = [
        (i, place, batch.encoded[i].without([span]))
        for i, words in enumerate(batch.words)
        for place, span in enumerate(words)
    ]
    # A word that the tokenizer has no token for changes nothing, not even by rounding.
    cuts = [cut for cut in cuts if len(cut[2].ids) < len(batch.encoded[cut[0]].ids)]

    def scores(positions: Sequence[int]) -> list[Tensor]:
        ids, mask = adapter.stack([cuts[k][2] for k in positions])
        owners = torch.tensor([cuts[k][0] for k in positions], device=ids.device)
        return [*objective(adapter.embed(ids), mask, *(row[owners] for row in rows[1:]))]

    answer = adapter.answer_width(batch)
    lengths = [len(row.ids) + answer for _, _, row in cuts]
    with torch.inference_mode():
        whole = objective(adapter.embed(batch.ids), *rows)
        losses = whole.new_zeros(len(whole), max(map(len, batch.words), default=0), *whole.shape[1:])
        left = in_batches(lengths, adapter.max_padded_tokens, scores, adapter.most_rows(answer))
        for (i, place, _), score in zip(cuts, left, strict=True):
            losses[i, place] = whole[i] - score
    return losses
