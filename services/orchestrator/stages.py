"""What runs in a child process: the library's stages, with plain JSON in and out.

Imported by the worker as well, so torch is imported inside the functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from understudy.artifacts import ArtifactStore

__all__ = ["evaluate", "inspect", "train"]

Emit = Callable[[Mapping[str, Any]], None]


def train(spec: Mapping[str, Any], out: Path, emit: Emit) -> Mapping[str, Any]:
    from understudy.training.run import train as run
    from understudy.training.spec import TrainSpec

    result = run(TrainSpec.model_validate(spec), out, lambda event: emit(event.model_dump(mode="json")))
    return result.model_dump(mode="json")


def evaluate(spec: Mapping[str, Any], out: Path, emit: Emit) -> Mapping[str, Any]:
    from understudy.evaluation.run import evaluate as run
    from understudy.evaluation.spec import EvaluateSpec

    report = run(EvaluateSpec.model_validate(spec), out, lambda done, total: emit({"completed": done, "total": total}))
    return report.model_dump(mode="json")


def inspect(spec: Mapping[str, Any], _: Path, __: Emit) -> Mapping[str, Any]:
    """The architecture behind the model reference `model`, without its weights."""
    from understudy.models.load import architecture_of

    return {"architecture": architecture_of(spec["model"], ArtifactStore(spec["artifacts"]))}
