"""The names of models that are made here. Imports no torch: anyone can check one.

From nothing: `scratch:<family>-<layers>x<width>`. Cut from another model:
`cut:<layers>[x<decoder layers>][v<vocabulary>][@<model>]`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from understudy.errors import InvalidRequest, UnknownName

__all__ = ["CUT", "FAMILIES", "PREFIX", "Cut", "Scratch", "base_of", "cut_from", "is_cut", "parse_cut", "parse_scratch"]

CUT = "cut:"
PREFIX = "scratch:"
FAMILIES: dict[str, Literal["seq2seq", "causal", "classifier"]] = {
    "bert": "classifier",
    "gpt2": "causal",
    "t5": "seq2seq",
}
"""Each family and the architecture that it makes."""

_CUT = re.compile(
    r"cut:(?P<layers>[1-9]\d{0,2})(x(?P<decoder>[1-9]\d{0,2}))?(v(?P<vocabulary>[1-9]\d{0,6}))?(@(?P<base>.+))?",
    re.DOTALL,
)
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


@dataclass(frozen=True)
class Cut:
    """How much of a model is kept: `layers` of its only stack or of its encoder, and `decoder_layers` of its decoder.

    Without `decoder_layers` a decoder keeps as many as the encoder, or all where it has fewer. `vocabulary` bounds the
    tokens that are kept; None keeps all. `base` is what is cut; None stands for the teacher of the job.
    """

    layers: int
    decoder_layers: int | None = None
    vocabulary: int | None = None
    base: str | None = None

    def __str__(self) -> str:
        decoder = f"x{self.decoder_layers}" if self.decoder_layers else ""
        vocabulary = f"v{self.vocabulary}" if self.vocabulary else ""
        return f"{CUT}{self.layers}{decoder}{vocabulary}{f'@{self.base}' if self.base else ''}"


def is_cut(ref: str) -> bool:
    return ref.startswith(CUT)


def parse_cut(ref: str, *, param: str | None = "model") -> Cut:
    """Read `cut:<layers>[x<decoder layers>][v<vocabulary>][@<model>]`; raises InvalidRequest, which names the form."""
    found = _CUT.fullmatch(ref)
    if not found:
        raise InvalidRequest(
            f"'{ref[:100]}' is no model: write {CUT}<layers>[x<decoder layers>][v<vocabulary>][@<model>], for example "
            f"{CUT}2, {CUT}6x2 or {CUT}2v8000@google/flan-t5-base",
            param=param,
        )
    base = found["base"]
    if base is not None and base.startswith((CUT, PREFIX)):
        raise InvalidRequest(f"'{base[:100]}' has no weights to be cut from: name a trained model", param=param)
    decoder, vocabulary = (int(found[name]) if found[name] else None for name in ("decoder", "vocabulary"))
    return Cut(int(found["layers"]), decoder, vocabulary, base)


def base_of(ref: str, *, param: str | None = "model") -> str:
    """The model that a cut is made from; raises InvalidRequest where the reference leaves that open."""
    cut = parse_cut(ref, param=param)
    if cut.base is None:
        raise InvalidRequest(f"'{ref}' does not say what it is cut from: write {ref}@<model>", param=param)
    return cut.base


def cut_from(ref: str, teacher: str) -> str:
    """The reference with the teacher filled in where it is a cut that names no model; any other as it is.

    Raises InvalidRequest as `parse_cut` does, also for a teacher that has no weights.
    """
    if not is_cut(ref):
        return ref
    cut = parse_cut(ref)
    return ref if cut.base else str(parse_cut(str(replace(cut, base=teacher))))
