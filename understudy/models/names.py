"""The names of models from nothing: `scratch:<family>-<layers>x<width>`. Imports no torch: anyone can check one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from understudy.errors import InvalidRequest, UnknownName

__all__ = ["FAMILIES", "PREFIX", "Scratch", "parse_scratch"]

PREFIX = "scratch:"
FAMILIES: dict[str, Literal["seq2seq", "causal", "classifier"]] = {
    "bert": "classifier",
    "gpt2": "causal",
    "t5": "seq2seq",
}
"""Each family and the architecture that it makes."""

_PATTERN = re.compile(r"(?P<family>[a-z0-9]+)-(?P<layers>[1-9]\d?)x(?P<width>[1-9]\d{0,3})")


@dataclass(frozen=True)
class Scratch:
    family: str
    layers: int
    width: int

    @property
    def heads(self) -> int:
        """Heads of 32 for small widths and of 64 for large ones, as the published small models have them."""
        size = 64 if self.width >= 512 else 32
        return self.width // size if self.width % size == 0 else self.width // 8


def parse_scratch(ref: str, *, param: str | None = "model") -> Scratch:
    """Read `scratch:<family>-<layers>x<width>`; raises InvalidRequest or UnknownName, which say what would be right."""
    found = _PATTERN.fullmatch(ref.removeprefix(PREFIX))
    if not found or int(found["width"]) % 8:
        raise InvalidRequest(
            f"'{ref}' is no model: write {PREFIX}<family>-<layers>x<width> with a width that 8 divides, "
            f"for example {PREFIX}bert-2x128",
            param=param,
        )
    if found["family"] not in FAMILIES:
        raise UnknownName.among("family", found["family"], FAMILIES, param=param)
    return Scratch(found["family"], int(found["layers"]), int(found["width"]))
