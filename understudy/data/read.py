"""Files in every shape that users have -> raw rows, one at a time.

Each row comes with its line and is either the fields that were found or the reason why there are none: one bad line
never costs the lines around it. Knows which format reads what; what the fields must be is in `rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from understudy.data.formats.columnar import read_parquet
from understudy.data.formats.delimited import read_delimited
from understudy.data.formats.hub import PREFIX, read_hub
from understudy.data.formats.jsonlines import read_json
from understudy.data.formats.text import Row
from understudy.errors import InvalidRequest, UnknownName

__all__ = ["FORMATS", "Row", "read_rows"]

FORMATS: Mapping[str, Callable[[Path], Iterator[tuple[int, Row]]]] = MappingProxyType(
    {
        ".csv": read_delimited,
        ".json": read_json,
        ".jsonl": read_json,
        ".ndjson": read_json,
        ".parquet": read_parquet,
        ".tsv": read_delimited,
    }
)


def read_rows(path: Path, split: str = "train", *, answered: bool = True) -> Iterator[tuple[int, Row]]:
    """Yield (line, row) of a local file, or of the hub data set that a path such as `hf:org/name` names.

    `split` matters to hub data sets only, `answered` to files that name their columns: whether one must be an output.
    Raises InvalidRequest where a file as a whole cannot be read.
    """
    if str(path).startswith(PREFIX):
        return read_hub(str(path), split)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UnknownName.among("file type", suffix or path.name, FORMATS)
    if not path.is_file():
        raise InvalidRequest(f"there is no file '{path.name}'")
    if path.stat().st_size == 0:
        raise InvalidRequest(f"'{path.name}' is empty")
    read = FORMATS[suffix]
    return read_delimited(path, answered=answered) if read is read_delimited else read(path)
