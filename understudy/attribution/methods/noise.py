"""Noise that belongs to an example: it depends on the example's tokens and the seed, and on nothing else.

Neighbours, order, padding, batch size, device and precision never change what an example draws. Only tokens of the
user's text get noise: the template and special tokens are not in question, and stay what they are in every draw.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Batch

__all__ = ["generators", "shares", "spread", "text_noise"]


def generators(batch: Batch, seed: int, sample: int) -> list[torch.Generator]:
    """One source of random numbers for each example, for one of its samples."""
    return [
        torch.Generator().manual_seed(
            int.from_bytes(hashlib.blake2b(array("q", [seed, sample, *row.ids]).tobytes(), digest_size=8).digest())
        )
        for row in batch.encoded
    ]


def shares(sources: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """One number between 0 and 1 for each example: (B, 1, 1)."""
    return torch.stack([torch.rand(1, 1, generator=source) for source in sources]).to(like)


def text_noise(batch: Batch, sources: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Standard normal noise, zero but for text tokens: (B, T, D) as `like` is."""
    noise = torch.zeros_like(like)
    for row, text, source in zip(noise, batch.text_tokens, sources, strict=True):
        # Drawn on the CPU in float32, so that every device and precision sees the same numbers.
        row[text] = torch.randn(int(text.sum()), row.shape[-1], generator=source).to(like)
    return noise


def spread(batch: Batch, embeds: Tensor) -> Tensor:
    """The standard deviation of each example's text embeddings, zero without a text: (B, T, D) -> (B, 1, 1)."""
    found = [
        row[text].double().std(correction=0) if text.any() else row.new_zeros((), dtype=torch.float64)
        for row, text in zip(embeds, batch.text_tokens, strict=True)
    ]
    return torch.stack(found).view(-1, 1, 1).to(embeds)
