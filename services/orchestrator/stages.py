"""What runs in a child process: the library's stages, with plain JSON in and out.

Imported by the worker as well, so torch is imported inside the functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from understudy.artifacts import ArtifactStore
from understudy.errors import UnderstudyError

__all__ = ["engines", "evaluate", "inspect", "measure", "train"]

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


def engines(spec: Mapping[str, Any], out: Path, emit: Emit) -> Mapping[str, Any]:
    """The model in `folder` exported for the engines `names` into `out`, those that pass the gate on `rows`."""
    from understudy.data.parquet import read_examples
    from understudy.evaluation.metrics import correctness
    from understudy.serving.parity import publish_engines

    report = publish_engines(
        Path(spec["folder"]),
        read_examples(Path(spec["rows"])),
        spec["names"],
        out,
        correctness,
        min_agreement=spec["min_agreement"],
        max_drop=spec["max_drop"],
        tell=lambda result: emit(
            {
                "message": result.sentence,
                "level": "info" if result.published else "warn",
                "data": result.model_dump(mode="json"),
            }
        ),
    )
    return report.model_dump(mode="json")


def inspect(spec: Mapping[str, Any], _: Path, __: Emit) -> Mapping[str, Any]:
    """The architecture behind the model reference `model`, without its weights."""
    from understudy.models.load import architecture_of

    return {"architecture": architecture_of(spec["model"], ArtifactStore(spec["artifacts"]))}


def measure(spec: Mapping[str, Any], _: Path, __: Emit) -> Mapping[str, Any]:
    """The lengths of `rows` for each of `models`, or the `problem` with that model."""
    from understudy.data.parquet import read_examples
    from understudy.models.lengths import measure as run
    from understudy.schemas import TaskSpec

    rows, task = read_examples(Path(spec["rows"])), TaskSpec.model_validate(spec["task"])
    store = ArtifactStore(spec["artifacts"])
    found: dict[str, Any] = {}
    for name, ref in spec["models"].items():
        try:
            found[name] = run(ref, rows, task, store).model_dump(mode="json")
        except UnderstudyError as error:
            found[name] = {"problem": {"status": error.status, "body": error.body()}, "message": error.message}
    return found
