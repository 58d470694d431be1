"""Forward passes over rows of unequal length: sorted by length, within a token budget, halved where memory runs out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from understudy.batching import plan_batches
from understudy.errors import ModelError

__all__ = ["in_batches", "out_of_memory"]

T = TypeVar("T")


class _Count:
    """How often something has happened in this process, counted on any thread."""

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self.value += 1


out_of_memory = _Count()
"""Batches that did not fit into a device's memory: a budget of tokens that is too large for it shows here."""


def in_batches(
    lengths: Sequence[int],
    max_padded_tokens: int,
    work: Callable[[Sequence[int]], Sequence[T]],
    most_rows: int | None = None,
) -> list[T]:
    """What `work` makes of each position, in order; it is called with the positions of one batch at a time.

    A batch that does not fit into the device's memory is halved. Raises ModelError where one row alone does not fit.
    """
    found: dict[int, T] = {}
    waiting: list[Sequence[int]] = [*reversed(plan_batches(lengths, max_padded_tokens, most_rows))]
    while waiting:
        batch = waiting.pop()
        try:
            found |= zip(batch, work(batch), strict=True)
        except torch.OutOfMemoryError:
            out_of_memory.add()
            half = len(batch) // 2
            if half == 0:
                raise ModelError(f"{lengths[batch[0]]} tokens do not fit into the device's memory") from None
            # Tried in the next round: what this exception's traceback holds is free by then.
            waiting += [batch[half:], batch[:half]]
    return [found[position] for position in range(len(lengths))]
