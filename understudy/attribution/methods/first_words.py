"""The first words: a control. Much of what is worth naming stands at the beginning of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic.dataclasses import dataclass

from understudy.attribution.methods.registry import METHODS, SETTINGS

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["FirstWords"]


@METHODS.register("first_words")
@dataclass(frozen=True, config=SETTINGS)
class FirstWords:
    """The first word scores 1, each one behind it an equal step less, and none zero."""

    unit: ClassVar[Literal["token", "word"]] = "word"
    complete: ClassVar[bool] = False

    def __call__(self, adapter: Adapter, batch: Batch) -> Tensor:  # noqa: ARG002
        from understudy.models.text import pad

        return pad([[1 - place / len(words) for place in range(len(words))] for words in batch.words], 0)
