"""Parquet, a batch of rows at a time. Rows are counted from 1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from understudy.data.formats.text import Row
from understudy.errors import InvalidRequest

__all__ = ["read_parquet"]

_BATCH = 512


def read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (row number, row). Raises InvalidRequest where the file is no Parquet file or is cut off."""
    try:
        with pq.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(_BATCH) for row in _rows(batch))
            yield from enumerate(rows, start=1)
    except (pa.ArrowException, OSError) as error:
        raise InvalidRequest(f"'{path.name}' cannot be read as Parquet: {error}") from error


def _rows(batch: Any) -> Iterator[Row]:
    try:
        yield from batch.to_pylist()
    except (UnicodeDecodeError, OverflowError):
        for index in range(batch.num_rows):
            yield _row(batch.slice(index, 1))


def _row(batch: Any) -> Row:
    """One row of a batch that could not be converted as a whole: Parquet writers do not check what they call text."""
    try:
        fields: dict[str, Any] = batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return InvalidRequest(f"byte 0x{error.object[error.start]:02x} of a text column is not UTF-8")
    except (OverflowError, ValueError) as error:
        return InvalidRequest(f"a value cannot be converted: {error}")
    return fields
