"""When an answer counts as right. One rule for validation during training and for the test split. Imports no torch."""

from __future__ import annotations

from understudy.schemas import TaskSpec

__all__ = ["is_right"]


def is_right(task: TaskSpec, given: str, expected: str) -> bool:
    """A label or a choice must be the expected one exactly; free text may differ in white space and in case.

    The tolerance is there because tokenizers do not keep runs of spaces, and some lower-case.
    """
    if task.kind != "generation":
        return given == expected
    return " ".join(given.split()).casefold() == " ".join(expected.split()).casefold()
