"""Checked rows on the disk instead of in memory: a sequence like a list, which reads a row when it is asked for it.

In memory stay 48 bytes a row, the hash of its question among them, so that rows are compared, divided and ordered
without being read. The file has no name: it is gone when nobody uses it any more, however its process ended. Knows no
file of a user.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar, cast, overload

from pydantic_core import to_json

from understudy.data.rows import SourceInput, SourceRow, content_key
from understudy.schemas import Example

__all__ = ["Stored", "questions", "take"]

_Source = TypeVar("_Source", bound=SourceRow | SourceInput)
_Any = TypeVar("_Any", bound=Example | SourceInput)
_DIGEST = 32  # bytes of a content key
_BUFFER = 2**20


class _Heap(Generic[_Source]):
    """Rows one behind the other in a file, with where each begins and the content key of each."""

    def __init__(self, kind: type[_Source], folder: Path | None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._kind = kind
        self._file = tempfile.TemporaryFile(dir=folder, buffering=_BUFFER)  # noqa: SIM115 - closed with its last user
        weakref.finalize(self, self._file.close)
        self._starts = array("q", [0])
        self._written = 0
        self.digests = bytearray()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(self, row: _Source) -> None:
        data = to_json(row.__dict__)  # with the line, which is no part of the example
        self._file.write(data)
        self._starts.append(self._starts[-1] + len(data))
        self.digests += bytes.fromhex(content_key(row.input, row.choices))

    def read(self, place: int) -> _Source:
        start, stop = self._starts[place], self._starts[place + 1]
        if stop > self._written:
            self._file.flush()
            self._written = self._starts[-1]
        return cast(_Source, self._kind.model_validate_json(os.pread(self._file.fileno(), stop - start, start)))

    def question(self, place: int) -> str:
        return self.digests[place * _DIGEST : (place + 1) * _DIGEST].hex()


class Stored(Sequence[_Source]):
    """Rows of one kind. `append` is for the whole of them; a part, as `take` and slices give it, is read alone."""

    def __init__(self, kind: type[_Source], folder: Path | None = None) -> None:
        """`folder` is where the file is, by default that of temporary files. A full disk raises OSError."""
        self._heap = _Heap(kind, folder)
        self._places: Sequence[int] | None = None  # all of them

    def append(self, row: _Source) -> None:
        self._heap.append(row)

    def take(self, places: Sequence[int]) -> Stored[_Source]:
        """The rows at these places, in this order."""
        part = Stored.__new__(Stored)
        part._heap, part._places = self._heap, array("q", [self._at(place) for place in places])
        return part

    def questions(self) -> Iterator[str]:
        """The content key of each row; none is read."""
        return (self._heap.question(self._at(place)) for place in range(len(self)))

    def __len__(self) -> int:
        return len(self._heap) if self._places is None else len(self._places)

    def __iter__(self) -> Iterator[_Source]:
        return (self._heap.read(self._at(place)) for place in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> _Source: ...
    @overload
    def __getitem__(self, index: slice) -> Stored[_Source]: ...
    def __getitem__(self, index: int | slice) -> _Source | Stored[_Source]:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        return self._heap.read(self._at(range(len(self))[index]))

    def _at(self, place: int) -> int:
        return place if self._places is None else self._places[place]


def questions(rows: Sequence[_Any]) -> Iterator[str]:
    """What makes each row the question that it is."""
    if isinstance(rows, Stored):
        return rows.questions()
    return (content_key(row.input, row.choices) for row in rows)


def take(rows: Sequence[_Any], places: Sequence[int]) -> Sequence[_Any]:
    """The rows at these places: a list of a list's, and on the disk of those that are there."""
    return rows.take(places) if isinstance(rows, Stored) else [rows[place] for place in places]
