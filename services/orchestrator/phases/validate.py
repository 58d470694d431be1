"""Validate: the uploaded files become a data set of three splits without leaks, a task, and the arms to train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from services.orchestrator import stages
from services.orchestrator.child import run_child
from services.orchestrator.context import Context, Grip
from services.orchestrator.estimate import expect
from services.orchestrator.jobs import Arm, Estimate, Event, Item, Job, Rows
from services.orchestrator.phases.fields import told_as
from understudy.data.parquet import write_examples
from understudy.data.rows import content_key
from understudy.data.validate import infer_task, keep_known_labels, load_split, remove_leaks, split_examples
from understudy.errors import InvalidRequest
from understudy.models.names import FAMILIES, PREFIX, parse_scratch
from understudy.schemas import Example, RejectedRow, TaskSpec
from understudy.training.recipes import plan_arms

__all__ = ["MIN_ROWS", "SHOWN", "Examined", "Validated", "absorb", "arms_of", "check_sizes", "examine", "run"]

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.2
SPLIT_SEED = 0  # the splits belong to the data, not to a job's seed: two jobs on one file share their test split
SHOWN = 100
"""Rejected rows that a job shows by itself; all of them are in the data set."""
PLAIN = "finetune"  # the one recipe without a teacher
FIRST = 20
"""Rejected rows in the event, which is all there is of them where the job fails for them."""

Split = Literal["train", "validation", "test"]
Splits = dict[Split, list[Example]]

MIN_ROWS: Mapping[Split, int] = {"train": 10, "validation": 2, "test": 2}


class Validated(BaseModel):
    model_config = ConfigDict(frozen=True)

    dataset: str
    task: TaskSpec
    rows: Rows
    rejected: tuple[RejectedRow, ...]
    architecture: str
    arms: tuple[Arm, ...]
    estimate: Estimate | None = None
    began_at: float | None = None


@dataclass(frozen=True)
class Examined:
    """What the files hold: the splits, the task that they pose, and every row that was set aside."""

    splits: Splits
    task: TaskSpec
    rejected: list[RejectedRow]

    @property
    def rows(self) -> Rows:
        return Rows(**{name: len(examples) for name, examples in self.splits.items()}, rejected=len(self.rejected))


def run(context: Context, job: Job, item: Item, grip: Grip) -> Validated:
    began = context.clock()
    found = examine(context, job, grip.check)
    if found.rejected:
        grip.event(_rejections(found.rejected))
    check_sizes(job, found)
    architecture = _architecture(context, job, item, grip)
    arms = arms_of(job, architecture, found.task)
    rows = found.rows
    dataset = _publish(context, item, found.splits, found.task, found.rejected)
    grip.progress(*[rows.train + rows.validation + rows.test + rows.rejected] * 2)
    return Validated(
        began_at=began,
        dataset=dataset,
        task=found.task,
        rows=rows,
        rejected=tuple(found.rejected[:SHOWN]),
        architecture=architecture,
        arms=arms,
        estimate=expect(context, job, rows, arms),
    )


def examine(context: Context, job: Job, check: Callable[[], None]) -> Examined:
    """Read the job's files. `check` is called between them and may raise. Raises InvalidRequest by the file's field."""
    splits, rejected = _read(context, job, check)
    task = infer_task(splits["train"], job.spec.template)
    return Examined(splits, task, rejected + _drop_unknown_labels(task, splits))


def absorb(job: Job, result: Validated) -> Job:
    return job.with_facts(
        began_at=result.began_at,
        dataset=result.dataset,
        task=result.task,
        rows=result.rows,
        rejected_rows=result.rejected,
        architecture=result.architecture,
        arms=result.arms,
        estimate=result.estimate,
    )


def _read(context: Context, job: Job, check: Callable[[], None]) -> tuple[Splits, list[RejectedRow]]:
    """Read the files there are, cut the missing splits from the training rows, and take out what splits share."""
    files: Mapping[Split, str | None] = {
        "train": job.training_file,
        "validation": job.validation_file,
        "test": job.spec.test_file,
    }
    found: Splits = {}
    rejected: list[RejectedRow] = []
    for split, file_id in files.items():
        check()
        if file_id is not None:
            found[split], refused = _load(context, job, split, file_id)
            rejected += refused
    try:
        train, validation, test = split_examples(
            found["train"],
            validation=0.0 if "validation" in found else VALIDATION_SHARE,
            test=0.0 if "test" in found else TEST_SHARE,
            seed=SPLIT_SEED,
        )
    except InvalidRequest as error:
        raise InvalidRequest(f"{error.message}{_aside(rejected)}", param=_field(job, "train")) from error
    test = found.get("test", test)
    train, validation, leaks = remove_leaks(train, found.get("validation", validation), test)
    # In the order of their content's hash, so that the first N rows are a fair sample of a file that was sorted.
    train.sort(key=lambda example: content_key(example.input, example.choices))
    return {"train": train, "validation": validation, "test": test}, rejected + leaks


def _load(context: Context, job: Job, split: Split, file_id: str) -> tuple[list[Example], list[RejectedRow]]:
    file = context.files.get(file_id, param=_field(job, split))
    path = context.path_of(file)
    try:
        return load_split(path, split)
    except InvalidRequest as error:  # it knows the file by the name under which we keep it
        raise InvalidRequest(error.message.replace(path.name, file.filename), param=_field(job, split)) from error


def _drop_unknown_labels(task: TaskSpec, splits: Splits) -> list[RejectedRow]:
    """A label that no training row has can be tested but never learnt: such rows would only lower every number."""
    rejected: list[RejectedRow] = []
    held_out: tuple[Split, ...] = ("validation", "test")
    for split in held_out:
        splits[split], unknown = keep_known_labels(task, splits[split], split)
        rejected += unknown
    return rejected


def check_sizes(job: Job, found: Examined) -> None:
    """Raise InvalidRequest for a split with too few rows to say anything."""
    splits, rejected = found.splits, found.rejected
    for split, least in MIN_ROWS.items():
        count = len(splits[split])
        if count < least:
            raise InvalidRequest(
                f"the {split} split has {count} valid rows and needs at least {least}: upload more rows, or a file for "
                f"each split{_aside(rejected)}",
                param=_field(job, split),
            )


def _architecture(context: Context, job: Job, item: Item, grip: Grip) -> str:
    """Which kind of student the job's model is; of one that exists a child is asked, because only torch can tell."""
    if job.model.startswith(PREFIX):
        return FAMILIES[parse_scratch(job.model).family]
    spec = {"model": job.model, "artifacts": context.settings.artifact_root}
    out = context.settings.work / item.id
    answer = run_child(stages.inspect, spec, out, emit=lambda _: None, check=grip.check)
    return str(answer["architecture"])


def _field(job: Job, split: Split) -> str:
    """The field of the request that names a split's file."""
    return {"train": "training_file", "validation": "validation_file", "test": job.field("test_file")}[split]


def arms_of(job: Job, architecture: str, task: TaskSpec) -> tuple[Arm, ...]:
    """The arms that the job trains. Raises InvalidRequest where its recipe does not fit the student or the task."""
    recipe = job.distillation.recipe if job.distils else PLAIN
    with told_as({"recipe": "method.distillation.recipe" if job.distils else "model", "student": "model"}):
        planned = plan_arms(recipe, architecture, task)
    return tuple(Arm(name=arm.name, candidate=arm.candidate, control_of=arm.control_of) for arm in planned)


def _publish(context: Context, item: Item, splits: Splits, task: TaskSpec, rejected: Sequence[RejectedRow]) -> str:
    folder = context.scratch(item)
    for split, examples in splits.items():
        write_examples(folder / f"{split}.parquet", examples)
    (folder / "task.json").write_text(task.model_dump_json(indent=1) + "\n", encoding="utf-8")
    lines = "".join(row.model_dump_json() + "\n" for row in rejected)
    (folder / "rejected.jsonl").write_text(lines, encoding="utf-8")
    return context.artifacts.publish("dataset", folder).id


def _aside(rejected: Sequence[RejectedRow]) -> str:
    return f". {_rejections(rejected).message}" if rejected else ""


def _rejections(rejected: Sequence[RejectedRow]) -> Event:
    first, count = rejected[0], len(rejected)
    were = "1 row was" if count == 1 else f"{count} rows were"
    return Event(
        level="warn",
        message=f"{were} set aside; the first is line {first.line} of {first.split}: {first.reason}",
        data={"rejected_rows": len(rejected), "first": [row.model_dump() for row in rejected[:FIRST]]},
    )
