"""How many numbers a model folder holds, as its safetensors headers count them. Reads no weights, needs no torch."""

from __future__ import annotations

import json
import math
from pathlib import Path

from understudy.errors import ModelError

__all__ = ["MAX_HEADER", "parameters"]

MAX_HEADER = 100_000_000
"""Bytes of a header: what the format itself allows. A longer one is refused before memory is taken for it."""


def parameters(folder: Path) -> int:
    """Numbers in a folder's weights. Raises ModelError where it has none that are read here, or a broken header."""
    whole = folder / "model.safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob("model-*.safetensors"))
    if not files:
        raise ModelError(
            f"'{folder.name}' has no weights that are read here, which are model.safetensors or its numbered parts: "
            "save it with save_pretrained",
            param="model",
        )
    return sum(map(_numbers, files))


def _numbers(file: Path) -> int:
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > MAX_HEADER:
                raise ValueError(f"its header has {length} bytes")
            header = json.loads(opened.read(length))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(shape) for shape in shapes)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"'{file}' is no safetensors file", param="model") from error
