"""What the outputs of a data set say about its task. Guesses once, from the training split, and says why it cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from understudy.data.rows import SourceInput, SourceRow, shown
from understudy.data.stored import take
from understudy.errors import InvalidRequest
from understudy.schemas import Example, RejectedRow, TaskSpec

__all__ = ["infer_task", "keep_askable", "keep_known_labels"]

_MAX_LABELS = 100
_MEAN_REPEATS = 5
# Outputs that only one row has: a label with a typing mistake in a file of classes, the rule in a file of free answers.
_MAX_SINGLES = 0.05


def infer_task(train: Sequence[Example], template: str = "{input}") -> TaskSpec:
    """Choices on every row: `choice`. Few outputs that repeat: `classification`, with sorted labels. Else `generation`.

    Raises InvalidRequest where there is nothing to learn (one output only) or where only some rows have choices.
    """
    with_choices, outputs = 0, Counter[str]()
    for example in train:
        with_choices += example.choices is not None
        if len(outputs) <= _MAX_LABELS:  # more of them are no classes, whatever follows
            outputs[example.output] += 1
    if with_choices and with_choices == len(train):
        return TaskSpec(kind="choice", template=template)
    if with_choices:
        raise InvalidRequest(
            f"{with_choices} of {len(train)} training rows have choices: give all of them choices, or none",
            param="choices",
        )
    if len(outputs) < 2:
        only = f"'{shown(next(iter(outputs)))}'" if outputs else "none"
        raise InvalidRequest(f"the training rows need at least two different outputs; there is {only}", param="output")
    if _are_classes(outputs):
        return TaskSpec(kind="classification", labels=tuple(sorted(outputs)), template=template)
    return TaskSpec(kind="generation", template=template)


def keep_known_labels(
    task: TaskSpec, examples: Sequence[Example], split: Literal["train", "validation", "test"]
) -> tuple[Sequence[Example], list[RejectedRow]]:
    """Set aside the rows whose output is no label of a classification task; other tasks keep every row."""
    if task.kind != "classification":
        return examples, []
    known = set(task.labels)
    listed = shown(", ".join(task.labels), 200)
    kept: list[int] = []
    rejected: list[RejectedRow] = []
    for place, row in enumerate(examples):
        if row.output in known:
            kept.append(place)
            continue
        line = row.line if isinstance(row, SourceRow) else place + 1
        reason = f"output '{shown(row.output)}' is not one of the labels: {listed}"
        rejected.append(RejectedRow(split=split, line=line, reason=reason, param="output"))
    return take(examples, kept), rejected


def keep_askable(task: TaskSpec, rows: Sequence[SourceInput]) -> tuple[Sequence[SourceInput], list[RejectedRow]]:
    """Set aside the rows without an answer that are not of the task: choices are on every row of it, or on none."""
    wanted = task.kind == "choice"
    reason = (
        "choices is missing, and the training rows are multiple choice"
        if wanted
        else f"choices is there, and the training rows are no multiple choice: their task is {task.kind}"
    )
    kept: list[int] = []
    rejected: list[RejectedRow] = []
    for place, row in enumerate(rows):
        if (row.choices is not None) == wanted:
            kept.append(place)
        else:
            rejected.append(RejectedRow(split="unlabelled", line=row.line, reason=reason, param="choices"))
    return take(rows, kept), rejected


def _are_classes(outputs: Counter[str]) -> bool:
    rows = outputs.total()
    singles = sum(count == 1 for count in outputs.values())
    return len(outputs) <= _MAX_LABELS and rows >= _MEAN_REPEATS * len(outputs) and singles <= _MAX_SINGLES * rows
