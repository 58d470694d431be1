"""The door to the checks: a file -> the examples of one split, and every row that was set aside, with its line and why.

Nothing is dropped in silence. What splits must not share is in `split`, and what the outputs say about the task in
`task`; both are offered here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from understudy.data.read import read_rows
from understudy.data.rows import SourceRow, content_key, parse_row, shown
from understudy.data.split import remove_leaks, split_examples
from understudy.data.task import infer_task, keep_known_labels
from understudy.errors import InvalidRequest
from understudy.schemas import Example, RejectedRow

__all__ = ["infer_task", "keep_known_labels", "load_split", "remove_leaks", "split_examples"]

_REASONS_SHOWN = 3


def load_split(path: Path, split: Literal["train", "validation", "test"]) -> tuple[list[Example], list[RejectedRow]]:
    """Read and check a file. Raises InvalidRequest, which shows the first reasons, where no row is valid."""
    seen = _Seen()
    examples: list[Example] = []
    rejected: list[RejectedRow] = []
    for line, row in read_rows(path, split):
        try:
            if isinstance(row, InvalidRequest):
                raise row
            examples.append(seen.first(parse_row(row, line)))
        except InvalidRequest as error:
            rejected.append(RejectedRow(split=split, line=line, reason=error.message, param=error.param))
    if not examples:
        raise InvalidRequest(f"no row of '{path.name}' is valid{_first_reasons(rejected)}")
    return examples, rejected


class _Seen:
    """The questions and ids that a file has asked so far."""

    def __init__(self) -> None:
        self._questions: dict[str, SourceRow] = {}
        self._ids: dict[str, int] = {}

    def first(self, row: SourceRow) -> SourceRow:
        """Return the row, or raise InvalidRequest where an earlier one has the same question or the same id."""
        key = content_key(row.input, row.choices)
        before = self._questions.get(key)
        if before is not None and before.output == row.output:
            raise InvalidRequest(f"the same input as line {before.line}", param="input")
        if before is not None:
            outputs = f"'{shown(before.output, 40)}' there, '{shown(row.output, 40)}' here"
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
