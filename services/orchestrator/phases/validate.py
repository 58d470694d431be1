"""Validate: the uploaded files become a data set of three splits without leaks, a task, and the arms to train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from pydantic import BaseModel, ConfigDict

from services.orchestrator import stages
from services.orchestrator.child import run_child
from services.orchestrator.context import Context, Grip
from services.orchestrator.jobs import Arm, Event, Item, Job, Rows
from understudy.data.parquet import write_examples
from understudy.data.rows import content_key
from understudy.data.validate import infer_task, keep_known_labels, load_split, remove_leaks, split_examples
from understudy.errors import InvalidRequest
from understudy.schemas import Example, RejectedRow, TaskSpec
from understudy.training.recipes import plan_arms

__all__ = ["Validated", "absorb", "run"]

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.2
SPLIT_SEED = 0  # the splits belong to the data, not to a job's seed: two jobs on one file share their test split
MIN_ROWS = {"train": 10, "validation": 2, "test": 2}
SHOWN = 100
"""Rejected rows that a job shows by itself; all of them are in the data set."""

Split = Literal["train", "validation", "test"]


class Validated(BaseModel):
    model_config = ConfigDict(frozen=True)

    dataset: str
    task: TaskSpec
    rows: Rows
    rejected: tuple[RejectedRow, ...]
    architecture: str
    arms: tuple[Arm, ...]


def run(context: Context, job: Job, item: Item, grip: Grip) -> Validated:
    splits, rejected = _splits(context, job, grip)
    task = infer_task(splits["train"], job.spec.template)
    for name in ("validation", "test"):
        splits[name], unknown = keep_known_labels(task, splits[name], name)
        rejected += unknown
    _check_sizes(splits, rejected)
    architecture = _architecture(context, job, item, grip)
    arms = _arms(job, architecture, task)
    rows = Rows(**{name: len(examples) for name, examples in splits.items()}, rejected=len(rejected))
    with TemporaryDirectory() as folder:
        dataset = _publish(context, Path(folder), splits, task, rejected)
    if rejected:
        grip.event(_rejections(rejected))
    grip.progress(sum(map(len, splits.values())) + len(rejected), sum(map(len, splits.values())) + len(rejected))
    return Validated(
        dataset=dataset,
        task=task,
        rows=rows,
        rejected=tuple(rejected[:SHOWN]),
        architecture=architecture,
        arms=arms,
    )


def absorb(job: Job, result: Validated) -> Job:
    return job.with_facts(
        dataset=result.dataset,
        task=result.task,
        rows=result.rows,
        rejected_rows=result.rejected,
        architecture=result.architecture,
        arms=result.arms,
    )


def _splits(context: Context, job: Job, grip: Grip) -> tuple[dict[Split, list[Example]], list[RejectedRow]]:
    """Read the files there are, cut the missing splits from the training rows, and take out what splits share."""
    given: dict[Split, str | None] = {
        "train": job.training_file,
        "validation": job.validation_file,
        "test": job.spec.test_file,
    }
    found: dict[Split, list[Example]] = {"train": [], "validation": [], "test": []}
    rejected: list[RejectedRow] = []
    for name, file_id in given.items():
        grip.check()
        if file_id is not None:
            found[name], refused = _load(context, name, file_id)
            rejected += refused
    train, validation, test = split_examples(
        found["train"],
        validation=0.0 if given["validation"] else VALIDATION_SHARE,
        test=0.0 if given["test"] else TEST_SHARE,
        seed=SPLIT_SEED,
    )
    test = found["test"] or test
    train, validation, leaks = remove_leaks(train, found["validation"] or validation, test)
    # In the order of their content's hash, so that the first N rows are a fair sample of a file that was sorted.
    train.sort(key=lambda example: content_key(example.input, example.choices))
    return {"train": train, "validation": validation, "test": test}, rejected + leaks


def _load(context: Context, split: Split, file_id: str) -> tuple[list[Example], list[RejectedRow]]:
    param = "method.distillation.test_file" if split == "test" else f"{split}_file".replace("train_", "training_")
    file = context.files.get(file_id, param=param)
    (path,) = (path for path in context.artifacts.folder(file.artifact).iterdir() if path.name != "manifest.json")
    try:
        return load_split(path, split)
    except InvalidRequest as error:
        message = error.message.replace(f"'{path.name}'", f"'{file.filename}'")
        raise InvalidRequest(message, param=param) from error


def _check_sizes(splits: dict[Split, list[Example]], rejected: Sequence[RejectedRow]) -> None:
    for name, least in MIN_ROWS.items():
        count = len(splits[name])  # type: ignore[index]
        if count < least:
            param = "method.distillation.test_file" if name == "test" else f"{name}_file"
            raise InvalidRequest(
                f"the {name} split has {count} rows and needs at least {least} ({len(rejected)} rows were set aside): "
                f"upload more rows, or a file for the split",
                param=param.replace("train_", "training_"),
            )


def _architecture(context: Context, job: Job, item: Item, grip: Grip) -> str:
    """Which kind of student the job's model is; asked of a child, because only torch can tell."""
    spec = {"model": job.model, "artifacts": context.settings.artifact_root}
    out = context.settings.work / item.id
    answer = run_child(stages.inspect, spec, out, emit=lambda _: None, check=grip.check)
    return str(answer["architecture"])


def _arms(job: Job, architecture: str, task: TaskSpec) -> tuple[Arm, ...]:
    try:
        planned = plan_arms(job.spec.recipe, architecture, task)
    except InvalidRequest as error:
        raise type(error)(error.message, param="method.distillation.recipe") from error
    return tuple(Arm(name=arm.name, candidate=arm.candidate, control_of=arm.control_of) for arm in planned)


def _publish(
    context: Context,
    folder: Path,
    splits: dict[Split, list[Example]],
    task: TaskSpec,
    rejected: Sequence[RejectedRow],
) -> str:
    for name, examples in splits.items():
        write_examples(folder / f"{name}.parquet", examples)
    (folder / "task.json").write_text(task.model_dump_json(indent=1) + "\n", encoding="utf-8")
    lines = "".join(row.model_dump_json() + "\n" for row in rejected)
    (folder / "rejected.jsonl").write_text(lines, encoding="utf-8")
    return context.artifacts.publish("dataset", folder).id


def _rejections(rejected: Sequence[RejectedRow]) -> Event:
    first = rejected[0]
    return Event(
        level="warn",
        message=f"{len(rejected)} rows were set aside; the first is line {first.line} of {first.split}: {first.reason}",
        data={"rejected_rows": len(rejected)},
    )
