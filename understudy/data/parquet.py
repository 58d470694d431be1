"""Examples and annotated examples as Parquet: what the stages of a job hand to each other.

One file is one shard, written aside and moved, so that a reader never meets half of it. Knows the schema of our own
files only; `read` is for the files of users.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from understudy.errors import ArtifactCorrupt, ArtifactNotFound
from understudy.schemas import Attribution, Example, PredictionInput

__all__ = [
    "AnnotatedExample",
    "each_example",
    "read_annotated",
    "read_examples",
    "read_inputs",
    "read_some_examples",
    "read_some_inputs",
    "write_annotated",
    "write_examples",
    "write_inputs",
]

_Row = TypeVar("_Row", bound=BaseModel)

# Rows per row group: long enough to compress well, short enough that a writer holds little.
_GROUP = 4096

_WORDS = pa.list_(
    pa.struct([("text", pa.string()), ("start", pa.int32()), ("end", pa.int32()), ("score", pa.float64())])
)
_EXAMPLE = pa.struct(
    [
        ("id", pa.string()),
        ("input", pa.string()),
        ("output", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("rationale", pa.string()),
        ("highlights", pa.list_(pa.list_(pa.int32()))),
    ]
)
_TOKENS = pa.list_(
    pa.struct([("token", pa.string()), ("probabilities", pa.map_(pa.string(), pa.float64())), ("rest", pa.float64())])
)
_ATTRIBUTION = pa.struct(
    [
        ("id", pa.string()),
        ("prediction", pa.string()),
        ("probability", pa.float64()),
        ("probabilities", pa.map_(pa.string(), pa.float64())),
        ("explained", pa.string()),
        ("words", _WORDS),
        ("rationale", _WORDS),
        ("tokens", pa.int32()),
        ("truncated", pa.int32()),
        ("token_probabilities", _TOKENS),
    ]
)
_PLAIN = pa.schema(list(_EXAMPLE))
_INPUT = pa.schema([("id", pa.string()), ("input", pa.string()), ("choices", pa.list_(pa.string()))])
_ANNOTATED = pa.schema([("example", _EXAMPLE), ("attribution", _ATTRIBUTION)])
_OLDER = pa.schema([("example", _EXAMPLE), ("attribution", pa.struct(list(_ATTRIBUTION)[:-1]))])
"""Annotated shards from before a teacher told its probabilities of tokens: a report's manifest may name some."""


class AnnotatedExample(BaseModel):
    """An example and what the teacher said about it: the words that decided its answer."""

    model_config = ConfigDict(frozen=True)

    example: Example
    attribution: Attribution


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write a shard of examples and return how many there were."""
    return _write(path, _PLAIN, examples)


def read_examples(*paths: Path) -> list[Example]:
    """Read shards in the order given. Raises ArtifactNotFound or ArtifactCorrupt, which name the shard."""
    return [row for path in paths for row in _read(path, _PLAIN, Example)]


def each_example(path: Path) -> Iterator[Example]:
    """The rows of one shard, few of them in memory at a time. Raises what `read_examples` does, when it comes to it."""
    return _read(path, _PLAIN, Example)


def write_inputs(path: Path, inputs: Iterable[PredictionInput]) -> int:
    """Write a shard of rows without an answer and return how many there were."""
    return _write(path, _INPUT, inputs)


def read_inputs(*paths: Path) -> list[PredictionInput]:
    """Read shards in the order given. Raises ArtifactNotFound or ArtifactCorrupt, which name the shard."""
    return [row for path in paths for row in _read(path, _INPUT, PredictionInput)]


def write_annotated(path: Path, rows: Iterable[AnnotatedExample]) -> int:
    """Write a shard of annotated examples and return how many there were."""
    return _write(path, _ANNOTATED, rows)


def read_annotated(*paths: Path) -> list[AnnotatedExample]:
    """Read shards in the order given. Raises ArtifactNotFound or ArtifactCorrupt, which name the shard."""
    return [row for path in paths for row in _read(path, _ANNOTATED, AnnotatedExample, older=_OLDER)]


def read_some_examples(path: Path, start: int, stop: int) -> list[Example]:
    """The rows `start` to `stop` of one shard; of a large one only the parts that hold them are read."""
    return list(_read(path, _PLAIN, Example, within=range(start, stop)))


def read_some_inputs(path: Path, start: int, stop: int) -> list[PredictionInput]:
    """The same of rows without an answer."""
    return list(_read(path, _INPUT, PredictionInput, within=range(start, stop)))


def _write(path: Path, schema: pa.Schema, rows: Iterable[BaseModel]) -> int:
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    remaining = iter(rows)
    count = 0
    try:
        # Dictionaries and statistics are for who looks for a value; our files are read as they were written.
        with pq.ParquetWriter(
            aside, schema, compression="zstd", use_dictionary=False, write_statistics=False
        ) as writer:
            while group := list(islice(remaining, _GROUP)):
                writer.write_table(pa.Table.from_arrays(_columns(group, schema), schema=schema))
                count += len(group)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return count


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values of one field as Arrow keeps them, taken from the rows' own objects: no row becomes a dictionary first.

    A list or map may be None, and so may a plain value; what is an object of its own never is.
    """
    if pa.types.is_struct(kind):
        return pa.StructArray.from_arrays(_columns(values, kind), fields=list(kind))
    if pa.types.is_map(kind):
        keys = [key for value in values for key in value or ()]
        items = [item for value in values if value for item in value.values()]
        return pa.MapArray.from_arrays(
            _offsets(values), pa.array(keys, kind.key_type), pa.array(items, kind.item_type), type=kind
        )
    if pa.types.is_list(kind):
        flat = [one for value in values for one in value or ()]
        return pa.ListArray.from_arrays(_offsets(values), _column(flat, kind.value_type), type=kind)
    return pa.array(values, kind)


def _columns(rows: Sequence[Any], fields: Iterable[pa.Field]) -> list[pa.Array]:
    return [_column(list(map(attrgetter(field.name), rows)), field.type) for field in fields]


def _offsets(values: Sequence[Any]) -> pa.Array:
    """Where each list begins among all of them, and where the last one ends; null where there is none."""
    ends = list(accumulate((len(value) if value is not None else 0 for value in values), initial=0))
    there = [*(value is not None for value in values), True]
    return pa.array([end if is_there else None for end, is_there in zip(ends, there, strict=True)], pa.int32())


def _read(
    path: Path, schema: pa.Schema, kind: type[_Row], older: pa.Schema | None = None, within: range | None = None
) -> Iterator[_Row]:
    if not path.is_file():
        raise ArtifactNotFound(f"there is no shard at {path}")
    try:
        with pq.ParquetFile(path) as file:
            if not any(file.schema_arrow.equals(one) for one in (schema, older or schema)):
                columns = ", ".join(file.schema_arrow.names)
                raise ArtifactCorrupt(f"{path} is no shard of {kind.__name__}: its columns are {columns}")
            for batch in _batches(file, within):
                for row in batch.to_pylist(maps_as_pydicts="strict"):
                    yield kind.model_validate(row)
    except (pa.ArrowException, OSError, ValidationError) as error:
        raise ArtifactCorrupt(f"{path} cannot be read as a shard of {kind.__name__}: {error}") from error


def _batches(file: pq.ParquetFile, within: range | None) -> Iterator[pa.RecordBatch]:
    """All rows, or those within a range of places, a row group after the other."""
    if within is None:
        yield from file.iter_batches(_GROUP)
        return
    first = 0
    for number in range(file.num_row_groups):
        count = file.metadata.row_group(number).num_rows
        start, stop = max(within.start - first, 0), min(within.stop - first, count)
        if start < stop:
            yield from file.read_row_group(number).slice(start, stop - start).to_batches()
        first += count
