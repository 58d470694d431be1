"""Data sets of the Hugging Face hub, as `hf:name` or `hf:name:config`: streamed by the optional package `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from understudy.data.formats.text import Row
from understudy.errors import InvalidRequest

__all__ = ["PREFIX", "read_hub"]

PREFIX = "hf:"


def read_hub(source: str, split: str) -> Iterator[tuple[int, Row]]:
    """Yield (row number, row) of one split. Raises InvalidRequest without the package or without the data set."""
    try:
        import datasets
    except ImportError:
        raise InvalidRequest(
            f"'{source}' is read with the package 'datasets': pip install 'understudy[hub]', or give a local file"
        ) from None
    name, _, config = source.removeprefix(PREFIX).partition(":")
    if not name:
        raise InvalidRequest(f"'{source}' names no data set: write {PREFIX}NAME or {PREFIX}NAME:CONFIG")
    try:
        stream = datasets.load_dataset(name, config or None, split=split, streaming=True)
        kinds = {column: kind for column, kind in (stream.features or {}).items() if hasattr(kind, "int2str")}
        for number, fields in enumerate(stream, start=1):
            yield number, {column: _named(kinds.get(column), value) for column, value in fields.items()}
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise InvalidRequest(f"the split '{split}' of '{source}' cannot be read: {error}") from error


def _named(kind: Any, value: Any) -> Any:
    """The name of a class where the data set stores its number; -1 is the hub's mark of a hidden label."""
    if kind is None or value is None:
        return value
    return kind.int2str(value) if value >= 0 else None
