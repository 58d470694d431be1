"""Rows as people have them in Python: a file's path, dictionaries, or a table of pandas, pyarrow, polars or datasets.

No library of tables is imported here: each has one method that says what its rows are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from understudy.errors import InvalidRequest

__all__ = ["Rows", "Table", "rows_of", "write_rows"]


class Table(Protocol):
    """A data frame or table: pandas, pyarrow, polars and Hugging Face's datasets have these, and more."""

    @property
    def columns(self) -> Any: ...


class _Features(Protocol):
    @property
    def features(self) -> Any: ...


Rows: TypeAlias = str | PathLike[str] | Iterable[Mapping[str, Any]] | Table | _Features
"""A path (or `hf:NAME`), dictionaries, or a table."""

_LISTED = ("to_pylist", "to_dicts", "to_list")
"""How pyarrow, polars and datasets call it; pandas has `to_dict`."""


def rows_of(data: Any, param: str) -> Iterator[Any]:
    """The rows of what is no path, one by one, checked for nothing. Raises InvalidRequest for what has no rows."""
    if hasattr(data, "to_dict") and hasattr(data, "iloc"):
        yield from data.to_dict(orient="records")
        return
    names = getattr(data, "features", None) or {}
    kinds = {name: kind for name, kind in dict(names).items() if hasattr(kind, "int2str")} if names else {}
    for method in _LISTED:
        if hasattr(data, method):
            data = getattr(data, method)()
            break
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        raise InvalidRequest(
            f"{type(data).__name__} is not read here: give a path, a list of dictionaries, or a table", param=param
        )
    for row in data:
        yield row if not kinds else {name: _class(kinds.get(name), value) for name, value in row.items()}


def write_rows(data: Any, path: Path, param: str) -> Path:
    """Write the rows as JSON lines, where `data` is no path itself. Raises InvalidRequest, which names the row."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows_of(data, param), start=1):
            if not isinstance(row, Mapping):
                raise InvalidRequest(
                    f"row {count} is a {type(row).__name__}: each row is a dictionary, "
                    'such as {"input": ..., "output": ...}',
                    param=param,
                )
            try:
                line = json.dumps(_without_gaps(row), ensure_ascii=False, default=_plain, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise InvalidRequest(f"row {count} cannot be written as JSON: {error}", param=param) from error
            print(line, file=file)
    if not count:
        raise InvalidRequest("there are no rows", param=param)
    return path


def _without_gaps(row: Mapping[str, Any]) -> dict[str, Any]:
    """Without the cells that a table marks as empty: None, or not a number."""
    return {
        str(name): value
        for name, value in row.items()
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    }


def _plain(value: Any) -> Any:
    """A number or array of numpy as Python's own."""
    for method in ("item", "tolist"):
        if hasattr(value, method) and (method == "tolist" or getattr(value, "size", 1) == 1):
            return getattr(value, method)()
    raise TypeError(f"a {type(value).__name__} is neither text, a number nor a list")


def _class(kind: Any, value: Any) -> Any:
    """The name of a class where the data set stores its number; -1 is the hub's mark of a hidden label."""
    if kind is None or value is None:
        return value
    return kind.int2str(value) if value >= 0 else None
