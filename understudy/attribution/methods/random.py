"""Random words: a control. A method that finds no better words than these has found nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from understudy.attribution.methods.registry import METHODS, SETTINGS

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["RandomWords"]


@METHODS.register("random")
@dataclass(frozen=True, config=SETTINGS)
class RandomWords:
    """Between 0 and 1. A text's scores depend on the text, the word's position in it and the seed alone."""

    unit: ClassVar[Literal["token", "word"]] = "word"
    complete: ClassVar[bool] = False

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    def __call__(self, adapter: Adapter, batch: Batch) -> Tensor:  # noqa: ARG002
        from understudy.models.text import pad

        draws = [random.Random(f"{self.seed} {text}".encode(errors="surrogatepass")) for text in batch.texts]
        return pad([[draw.random() for _ in words] for draw, words in zip(draws, batch.words, strict=True)], 0)
