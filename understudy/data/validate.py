"""The door to the checks: a file -> the examples of one split, and every row that was set aside, with its line and why.

Nothing is dropped in silence. What splits must not share is in `split`, and what the outputs say about the task in
`task`; both are offered here too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from understudy.data.read import Row, read_rows
from understudy.data.rows import (
    MADE_ID,
    SourceInput,
    SourceRow,
    content_key,
    made_id,
    parse_input,
    parse_row,
    shown,
)
from understudy.data.split import remove_known, remove_leaks, split_examples
from understudy.data.stored import Stored
from understudy.data.task import infer_task, keep_askable, keep_known_labels
from understudy.errors import InvalidRequest
from understudy.schemas import Example, RejectedRow

__all__ = [
    "infer_task",
    "keep_askable",
    "keep_known_labels",
    "load_split",
    "load_unlabelled",
    "remove_known",
    "remove_leaks",
    "split_examples",
]

_REASONS_SHOWN = 3

Split = Literal["train", "validation", "test", "unlabelled"]
_Source = TypeVar("_Source", bound=SourceRow | SourceInput)


def load_split(
    path: Path, split: Literal["train", "validation", "test"], into: Stored[SourceRow] | None = None
) -> tuple[Sequence[Example], list[RejectedRow]]:
    """Read and check a file, into a list where nothing else is given.

    Raises InvalidRequest, which shows the first reasons, where no row is valid.
    """
    return _load(path, split, read_rows(path, split), parse_row, [] if into is None else into)


def load_unlabelled(
    path: Path, into: Stored[SourceInput] | None = None
) -> tuple[Sequence[SourceInput], list[RejectedRow]]:
    """Read and check a file whose rows need no output; raises as `load_split`. Outputs that are there are not read."""
    return _load(path, "unlabelled", read_rows(path, answered=False), parse_input, [] if into is None else into)


def _load(
    path: Path,
    split: Split,
    rows: Iterable[tuple[int, Row]],
    parse: Callable[[Mapping[str, Any], int], _Source],
    valid: list[_Source] | Stored[_Source],
) -> tuple[Sequence[_Source], list[RejectedRow]]:
    seen = _Seen(valid)
    rejected: list[RejectedRow] = []
    for line, row in rows:
        try:
            if isinstance(row, InvalidRequest):
                raise row
            seen.keep(parse(row, line))
        except InvalidRequest as error:
            rejected.append(RejectedRow(split=split, line=line, reason=error.message, param=error.param))
    if not valid:
        raise InvalidRequest(f"no row of '{path.name}' is valid{_first_reasons(rejected)}")
    return valid, rejected


class _Seen(Generic[_Source]):
    """The questions and ids that a file has asked so far: where each row is that has them, by half of a hash.

    An id that was made from its question needs no place of its own.
    """

    def __init__(self, valid: list[_Source] | Stored[_Source]) -> None:
        self._valid = valid
        self._questions: dict[int, int] = {}
        self._ids: dict[int, int] = {}

    def keep(self, row: _Source) -> None:
        """Add a row to the valid ones, or raise InvalidRequest where an earlier one has its question or its id."""
        question = content_key(row.input, row.choices)
        for before in self._at(self._questions, _half(question)):
            if content_key(before.input, before.choices) == question:
                raise _asked_before(before, row)
        for before in self._perhaps_named(row.id):
            if before.id == row.id:
                raise InvalidRequest(f"id '{shown(row.id)}' is the id of line {before.line} already", param="id")
        self._questions[_half(question)] = len(self._valid)
        if row.id != made_id(question):
            self._ids[_half(_digest(row.id))] = len(self._valid)
        self._valid.append(row)

    def _perhaps_named(self, name: str) -> Iterator[_Source]:
        if self._ids:
            yield from self._at(self._ids, _half(_digest(name)))
        if made := MADE_ID.fullmatch(name):
            yield from self._at(self._questions, _half(made[1]))

    def _at(self, among: Mapping[int, int], half: int) -> Iterator[_Source]:
        if (place := among.get(half)) is not None:
            yield self._valid[place]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _half(digest: str) -> int:
    """What is kept of a hash in memory; whether two that share it are the same is seen in the rows themselves."""
    return int(digest[:16], 16)


def _asked_before(before: SourceRow | SourceInput, row: SourceRow | SourceInput) -> InvalidRequest:
    there, here = getattr(before, "output", None), getattr(row, "output", None)
    if there == here:
        return InvalidRequest(f"the same input as line {before.line}", param="input")
    outputs = f"'{shown(str(there), 40)}' there, '{shown(str(here), 40)}' here"
    return InvalidRequest(f"the same input as line {before.line} with another output: {outputs}", param="output")


def _first_reasons(rejected: Sequence[RejectedRow]) -> str:
    if not rejected:
        return ": it has no rows"
    shown_ones = "; ".join(f"line {row.line}: {row.reason}" for row in rejected[:_REASONS_SHOWN])
    more = len(rejected) - _REASONS_SHOWN
    return f". {shown_ones}" + (f"; and {more} more" if more > 0 else "")
