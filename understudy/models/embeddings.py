"""What a model makes of token ids before its first layer: where gradients are taken, and whether they may be.

Knows no tokenizer, recipe or method.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

__all__ = ["embed", "reads_embeddings"]

_SAME = 0.01
"""Of the largest number of an answer: how far two ways to the same one may be apart in low precision."""

_known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def embed(model: Any, ids: Tensor) -> Tensor:
    """The embeddings that a model reads these ids as, of its encoder where there are two parts: (B, T) -> (B, T, D)."""
    reader = _reader(model)
    table = reader.get_input_embeddings()
    # Pegasus, Marian, MVP and Blenderbot scale what they look up, and not what they are given; BART's table does it.
    scale = 1.0 if hasattr(table, "embed_scale") else getattr(reader, "embed_scale", 1.0)
    found: Tensor = table(ids)
    return found if scale == 1.0 else found * scale


@torch.no_grad()
def reads_embeddings(model: Any, ids: Tensor, embeds: Tensor) -> bool:
    """Whether a model answers alike to a text's ids (1, T) and to their embeddings (1, T, D).

    Where it does not, gradients at the embeddings are those of another function. Each model is asked once.
    """
    if model not in _known:
        reader, mask = _reader(model), torch.ones_like(ids)
        one, other = (
            reader(attention_mask=mask, **text)[0] for text in ({"input_ids": ids}, {"inputs_embeds": embeds})
        )
        apart, largest = (one - other).abs().max(), one.abs().max()
        # What is not finite is told of where the text at fault is known.
        _known[model] = not largest.isfinite() or bool(apart <= _SAME * largest)
    return _known[model]


def _reader(model: Any) -> Any:
    return model.get_encoder() if model.config.is_encoder_decoder else model
