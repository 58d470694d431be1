"""The door to the checks: a file -> the examples of one split, and every row that was set aside, with its line and why.

Nothing is dropped in silence. What splits must not share is in `split`, and what the outputs say about the task in
`task`; both are offered here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from understudy.data.read import Row, read_rows
from understudy.data.rows import SourceInput, SourceRow, content_key, parse_input, parse_row, shown
from understudy.data.split import remove_known, remove_leaks, split_examples
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
_Source = TypeVar("_Source", SourceRow, SourceInput)


def load_split(path: Path, split: Literal["train", "validation", "test"]) -> tuple[list[Example], list[RejectedRow]]:
    """Read and check a file. Raises InvalidRequest, which shows the first reasons, where no row is valid."""
    examples, rejected = _load(path, split, read_rows(path, split), parse_row)
    return list(examples), rejected


def load_unlabelled(path: Path) -> tuple[list[SourceInput], list[RejectedRow]]:
    """Read and check a file whose rows need no output; raises as `load_split`. Outputs that are there are not read."""
    return _load(path, "unlabelled", read_rows(path, answered=False), parse_input)


def _load(
    path: Path, split: Split, rows: Iterable[tuple[int, Row]], parse: Callable[[Mapping[str, Any], int], _Source]
) -> tuple[list[_Source], list[RejectedRow]]:
    seen: _Seen[_Source] = _Seen()
    valid: list[_Source] = []
    rejected: list[RejectedRow] = []
    for line, row in rows:
        try:
            if isinstance(row, InvalidRequest):
                raise row
            valid.append(seen.first(parse(row, line)))
        except InvalidRequest as error:
            rejected.append(RejectedRow(split=split, line=line, reason=error.message, param=error.param))
    if not valid:
        raise InvalidRequest(f"no row of '{path.name}' is valid{_first_reasons(rejected)}")
    return valid, rejected


class _Seen(Generic[_Source]):
    """The questions and ids that a file has asked so far."""

    def __init__(self) -> None:
        self._questions: dict[str, _Source] = {}
        self._ids: dict[str, int] = {}

    def first(self, row: _Source) -> _Source:
        """Return the row, or raise InvalidRequest where an earlier one has the same question or the same id."""
        key = content_key(row.input, row.choices)
        before = self._questions.get(key)
        there, here = getattr(before, "output", None), getattr(row, "output", None)
        if before is not None and there == here:
            raise InvalidRequest(f"the same input as line {before.line}", param="input")
        if before is not None:
            outputs = f"'{shown(str(there), 40)}' there, '{shown(str(here), 40)}' here"
            raise InvalidRequest(f"the same input as line {before.line} with another output: {outputs}", param="output")
        if row.id in self._ids:
            raise InvalidRequest(f"id '{shown(row.id)}' is the id of line {self._ids[row.id]} already", param="id")
        self._questions[key] = row
        self._ids[row.id] = row.line
        return row


def _first_reasons(rejected: Sequence[RejectedRow]) -> str:
    if not rejected:
        return ": it has no rows"
    shown_ones = "; ".join(f"line {row.line}: {row.reason}" for row in rejected[:_REASONS_SHOWN])
    more = len(rejected) - _REASONS_SHOWN
    return f". {shown_ones}" + (f"; and {more} more" if more > 0 else "")
