"""What can serve a student: the contract of every engine. Knows no model, no service and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from understudy.schemas import ModelInfo, Prediction, PredictionInput, Reasons

__all__ = ["Engine"]


class Engine(Protocol):
    """One loaded model. Not for several threads at once: whoever serves gives it one."""

    @property
    def reasons(self) -> Reasons: ...

    @property
    def bytes(self) -> int:
        """What it keeps in memory: a model's parameters, or the files of another form of them, or both."""
        ...

    def info(self) -> ModelInfo: ...

    def predict(
        self,
        inputs: Sequence[PredictionInput],
        *,
        explain: bool,
        top_k: int,
        labels: Sequence[str] | None = None,
        template: str | None = None,
    ) -> list[Prediction]:
        """Answer each input, in order. An answer depends on its own input only, never on what it shares a batch with.

        `labels` and `template` replace the task's for this call. Raises InvalidRequest or ModelError, whose `param`
        names the input.
        """
        ...
