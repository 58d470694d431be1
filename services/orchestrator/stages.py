"""What runs in a child process: the library's stages, with plain JSON in and out.

Imported by the worker as well, so torch is imported inside the functions only.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from understudy.artifacts import ArtifactStore
from understudy.errors import UnderstudyError

__all__ = ["engines", "evaluate", "inspect", "measure", "targets", "train"]

Emit = Callable[[Mapping[str, Any]], None]


def train(spec: Mapping[str, Any], out: Path, emit: Emit) -> Mapping[str, Any]:
    from understudy.training.run import train as run
    from understudy.training.spec import TrainSpec

    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())  # the step that is reached is kept first
    result = run(TrainSpec.model_validate(spec), out, lambda event: emit(event.model_dump(mode="json")), asked.is_set)
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
    """The architecture behind the model reference `model`, without its weights.

    With a `teacher` also the share of the `rows` whose outputs both write in the same tokens, see `_shared`.
    """
    from understudy.models.load import architecture_of

    store = ArtifactStore(spec["artifacts"])
    return {"architecture": architecture_of(spec["model"], store), "shared": _shared(spec["model"], spec, store)}


def measure(spec: Mapping[str, Any], _: Path, __: Emit) -> Mapping[str, Any]:
    """The lengths of `rows` for each of `models`, or the `problem` with that model; `shared` as in `inspect`."""
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
    return {**found, "shared": _shared(spec["models"]["student"], spec["shared"], store)}


def targets(spec: Mapping[str, Any], _: Path, __: Emit) -> Mapping[str, Any]:
    """The `room` that each of `models` has for an answer, and the `excess`: the place of each of `rows` in which the
    output or a choice takes more, with its tokens.

    Where a model is new its tokenizer comes from the rows `train`. Nothing is in excess for a model that does not
    write, nor for one that is not at hand: who trains or asks it says what is wrong with it.
    """
    from understudy.data.parquet import read_examples
    from understudy.models.lengths import targets as run
    from understudy.schemas import TaskSpec

    rows, train = (read_examples(Path(spec[name])) for name in ("rows", "train"))
    task, store = TaskSpec.model_validate(spec["task"]), ArtifactStore(spec["artifacts"])
    answers = [
        (place, field, text)
        for place, row in enumerate(rows)
        for field, texts in (("output", (row.output,)), ("choices", row.choices or ()))
        for text in texts
    ]
    found: dict[str, Any] = {}
    for name, ref in spec["models"].items():
        excess: dict[int, dict[str, int]] = {}
        room = None
        with suppress(UnderstudyError):
            measured = run(ref, [text for *_, text in answers], train, task, store)
            room = measured.room
            for (place, field, _text), tokens in zip(answers, measured.tokens, strict=True):
                if room is not None and tokens > room:
                    row = excess.setdefault(place, {})
                    row[field] = max(tokens, row.get(field, 0))
        found[name] = {"room": room, "excess": list(excess.items())}
    return found


def _shared(student: str, asked: Mapping[str, Any], store: ArtifactStore) -> float | None:
    """The share of answers that both models write in the same tokens; None where nobody asks, or one is not at hand."""
    if not asked.get("teacher"):
        return None
    from understudy.models.lengths import shared_answers
    from understudy.schemas import Example, TaskSpec

    rows, task = [Example.model_validate(row) for row in asked["rows"]], TaskSpec.model_validate(asked["task"])
    try:
        return shared_answers(student, asked["teacher"], rows, task, store)
    except UnderstudyError:
        return None
