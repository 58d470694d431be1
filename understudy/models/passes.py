"""Forward passes over rows of unequal length: sorted by length, within a token budget, halved where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from understudy.batching import plan_batches
from understudy.errors import ModelError

__all__ = ["in_batches"]

T = TypeVar("T")


def in_batches(lengths: Sequence[int], max_padded_tokens: int, work: Callable[[Sequence[int]], Sequence[T]]) -> list[T]:
    """What `work` makes of each position, in order; it is called with the positions of one batch at a time.

    A batch that does not fit into the device's memory is halved. Raises ModelError where one row alone does not fit.
    """
    found: dict[int, T] = {}
    waiting: list[Sequence[int]] = [*reversed(plan_batches(lengths, max_padded_tokens))]
    while waiting:
        batch = waiting.pop()
        try:
            found |= zip(batch, work(batch), strict=True)
        except torch.OutOfMemoryError:
            half = len(batch) // 2
            if half == 0:
                raise ModelError(f"{lengths[batch[0]]} tokens do not fit into the device's memory") from None
            # Tried in the next round: what this exception's traceback holds is free by then.
            waiting += [batch[half:], batch[:half]]
    return [found[position] for position in range(len(lengths))]
