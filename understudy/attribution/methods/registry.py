"""The contract of a method, and where methods are found by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from understudy.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["METHODS", "Method"]


class Method(Protocol):
    """Its settings are its fields; calling it explains a batch."""

    def __call__(self, adapter: Adapter, batch: Batch) -> Tensor:
        """One score a token, (B, T): how much it moved `adapter.score`. Padding scores zero."""


METHODS: Registry[Callable[[], Method]] = Registry("method")
