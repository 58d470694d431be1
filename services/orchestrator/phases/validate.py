"""Validate: the uploaded files become a data set of three splits without leaks, a task, and the arms to train.

Rows without an output, where there is a file of them, stand beside the splits; none of them asks what a split asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from services.orchestrator import stages, targets, vocabularies
from services.orchestrator.child import run_child
from services.orchestrator.context import Context, Grip
from services.orchestrator.estimate import expect
from services.orchestrator.jobs import Arm, Estimate, Event, Item, Job, Rows
from services.orchestrator.phases.fields import told_as
from services.orchestrator.steps import pays
from understudy.data.parquet import write_examples, write_inputs
from understudy.data.rows import SourceInput, SourceRow
from understudy.data.split import in_order
from understudy.data.stored import Stored
from understudy.data.validate import (
    infer_task,
    keep_askable,
    keep_known_labels,
    load_split,
    load_unlabelled,
    remove_known,
    remove_leaks,
    split_examples,
)
from understudy.errors import ArtifactNotFound, InvalidRequest
from understudy.models.names import FAMILIES, PREFIX, parse_scratch
from understudy.schemas import Example, RejectedRow, TaskSpec
from understudy.training.recipes import AUTO, Offer, plan_arms

__all__ = ["MIN_ROWS", "SHOWN", "Examined", "Validated", "absorb", "arms_of", "check_sizes", "examine", "run"]

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.2
SPLIT_SEED = 0  # the splits belong to the data, not to a job's seed: two jobs on one file share their test split
SHOWN = 100
"""Rejected rows that a job shows by itself; all of them are in the data set."""
OFTEN = 0.5
"""The share of training rows with a free-text rationale from which `auto` tries the recipes that read them."""
FIRST = 20
"""Rejected rows in the event, which is all there is of them where the job fails for them."""

Split = Literal["train", "validation", "test"]
Splits = dict[Split, Sequence[Example]]

MIN_ROWS: Mapping[Split, int] = {"train": 10, "validation": 2, "test": 2}


class Validated(BaseModel):
    model_config = ConfigDict(frozen=True)

    dataset: str
    task: TaskSpec
    rows: Rows
    rejected: tuple[RejectedRow, ...]
    architecture: str
    arms: tuple[Arm, ...]
    searches: bool = False
    estimate: Estimate | None = None
    began_at: float | None = None
    stood_for: Mapping[str, str] = {}


@dataclass(frozen=True)
class Examined:
    """What the files hold: the splits, the task that they pose, and every row that was set aside."""

    splits: Splits
    task: TaskSpec
    rejected: list[RejectedRow]
    unlabelled: Sequence[SourceInput] = ()

    @property
    def rows(self) -> Rows:
        counts = {name: len(examples) for name, examples in self.splits.items()}
        return Rows(**counts, rejected=len(self.rejected), unlabelled=len(self.unlabelled))


def run(context: Context, job: Job, item: Item, grip: Grip) -> Validated:
    began = context.clock()
    job = job.with_facts(stood_for=_stood_for(context, job))
    for name, artifact in job.facts.stood_for.items():
        grip.event(Event(message=f"'{name}' is {artifact} in this job, wherever the alias moves"))
    found = examine(context, job, grip.check)
    if found.rejected:
        grip.event(_rejections(found.rejected))
    if answered := sum(row.answered for row in found.unlabelled):
        grip.event(_ignored(answered, len(found.unlabelled)))
    check_sizes(job, found)
    architecture, shared = _architecture(context, job, found, item, grip)
    arms = arms_of(job, architecture, found, shared)
    rows = found.rows
    dataset = _publish(context, item, found)
    grip.progress(*[rows.train + rows.validation + rows.test + rows.rejected + rows.unlabelled] * 2)
    return Validated(
        began_at=began - job.paused_seconds,
        stood_for=job.facts.stood_for,
        dataset=dataset,
        task=found.task,
        rows=rows,
        rejected=tuple(found.rejected[:SHOWN]),
        architecture=architecture,
        arms=arms,
        searches=pays(job, arms),
        estimate=expect(context, job, rows, arms),
    )


def examine(context: Context, job: Job, check: Callable[[], None]) -> Examined:
    """Read the job's files. `check` is called between them and may raise. Raises InvalidRequest by the file's field."""
    splits, rejected = _read(context, job, check)
    splits, too_long = targets.keep_fitting(context, job, splits, check)
    if too_long:
        rejected += too_long
        _check_counts(job, splits, rejected)
    task = infer_task(splits["train"], job.spec.template)
    unlabelled, aside = _unlabelled(context, job, splits, task)
    check()
    return Examined(splits, task, rejected + _drop_unknown_labels(task, splits) + aside, unlabelled)


def absorb(job: Job, result: Validated) -> Job:
    return job.with_facts(
        began_at=result.began_at,
        stood_for=result.stood_for,
        dataset=result.dataset,
        task=result.task,
        rows=result.rows,
        rejected_rows=result.rejected,
        architecture=result.architecture,
        arms=result.arms,
        searches=result.searches,
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
    return {"train": in_order(train), "validation": validation, "test": test}, rejected + leaks


def _load(context: Context, job: Job, split: Split, file_id: str) -> tuple[Sequence[Example], list[RejectedRow]]:
    with _opened(context, file_id, _field(job, split)) as path:
        return load_split(path, split, Stored(SourceRow, context.settings.work))


def _unlabelled(
    context: Context, job: Job, splits: Splits, task: TaskSpec
) -> tuple[Sequence[SourceInput], list[RejectedRow]]:
    """The rows that the teacher will label. Raises InvalidRequest where a file was given and none of it remains."""
    file_id = job.distillation.unlabelled_file if job.distils else None
    if file_id is None:
        return [], []
    field = job.field("unlabelled_file")
    with _opened(context, file_id, field) as path:
        rows, rejected = load_unlabelled(path, Stored(SourceInput, context.settings.work))
    rows, known = remove_known(rows, **splits)
    rows, others = keep_askable(task, rows)
    rejected += known + others
    if not rows:
        raise InvalidRequest(f"no row remains to be labelled{_aside(rejected)}", param=field)
    return rows, rejected


@contextmanager
def _opened(context: Context, file_id: str, field: str) -> Iterator[Path]:
    """A file to be read; an error knows it by the name under which we keep it, and is told with its own."""
    file = context.files.get(file_id, param=field)
    path = context.path_of(file)
    try:
        yield path
    except InvalidRequest as error:
        raise InvalidRequest(error.message.replace(path.name, file.filename), param=field) from error


def _drop_unknown_labels(task: TaskSpec, splits: Splits) -> list[RejectedRow]:
    """A label that no training row has can be tested but never learnt: such rows would only lower every number."""
    rejected: list[RejectedRow] = []
    held_out: tuple[Split, ...] = ("validation", "test")
    for split in held_out:
        splits[split], unknown = keep_known_labels(task, splits[split], split)
        rejected += unknown
    return rejected


def check_sizes(job: Job, found: Examined) -> None:
    """Raise InvalidRequest for a split, or a size of the learning curve, with too few rows to say anything."""
    _check_counts(job, found.splits, found.rejected)
    rows = min(found.rows.train, job.spec.max_train_rows or found.rows.train)
    for size in job.spec.sizes:
        if not MIN_ROWS["train"] <= size < rows:
            raise InvalidRequest(
                f"a training set of {size} rows cannot be a point of the learning curve: name sizes of at least "
                f"{MIN_ROWS['train']} and below {rows}, the number of training rows, with which every arm is trained "
                "anyway",
                param=job.field("sizes"),
            )


def _check_counts(job: Job, splits: Splits, rejected: Sequence[RejectedRow]) -> None:
    for split, least in MIN_ROWS.items():
        count = len(splits[split])
        if count < least:
            raise InvalidRequest(
                f"the {split} split has {count} valid rows and needs at least {least}: upload more rows, or a file for "
                f"each split{_aside(rejected)}",
                param=_field(job, split),
            )


def _architecture(context: Context, job: Job, found: Examined, item: Item, grip: Grip) -> tuple[str, float | None]:
    """Which kind of student the job's model is, and which share of an open task's answers it cuts as its teacher does.

    Of models that exist a child is asked, because only torch can tell; None where it cannot.
    """
    base = job.student_so_far
    if base.startswith(PREFIX):
        return FAMILIES[parse_scratch(base).family], None
    spec = {"model": base, "artifacts": context.settings.artifact_root}
    asked = vocabularies.question(job, found.task, found.splits["train"])
    out = context.settings.work / item.id
    answer = run_child(stages.inspect, {**spec, **asked}, out, emit=lambda _: None, check=grip.check)
    return str(answer["architecture"]), answer["shared"]


def _stood_for(context: Context, job: Job) -> dict[str, str]:
    """The artifact behind each alias that the job names, which must stay from now on; other references are no alias."""
    found = {}
    for ref in job.named:
        with suppress(ArtifactNotFound):
            artifact = context.artifacts.resolve(ref)
            if artifact != ref and context.artifacts.use(artifact):
                found[ref] = artifact
    return found


def _field(job: Job, split: Split) -> str:
    """The field of the request that names a split's file."""
    return {"train": "training_file", "validation": "validation_file", "test": job.field("test_file")}[split]


def arms_of(job: Job, architecture: str, found: Examined, shared: float | None = None) -> tuple[Arm, ...]:
    """The arms that the job trains, or chooses from after a search.

    `shared` is the share of an open task's answers that student and teacher cut into the same tokens, where that had to
    be measured; None where the teacher was not at hand. Raises InvalidRequest where a recipe does not fit the student,
    the task or the rows.
    """
    with told_as({"recipe": "method.distillation.recipe" if job.distils else "model", "student": "model"}):
        planned = plan_arms(job.recipes, architecture, found.task, _offers(job, found, shared))
    return tuple(Arm(name=arm.name, candidate=arm.candidate, control_of=arm.control_of) for arm in planned)


def _offers(job: Job, found: Examined, shared: float | None) -> set[Offer]:
    """What the rows hold beside inputs and outputs, and whether the teacher's tokens are the student's.

    A recipe that reads free-text rationales and was asked for needs one, also in the smallest training set. `auto`
    takes such recipes where at least half of the rows have one: with few there is little that they could add. The same
    goes for the tokens of an open task's answers; one that was asked for is tried where nobody could tell.
    """
    rows = found.splits["train"][: job.spec.max_train_rows]
    smallest = rows[: min(job.spec.sizes, default=len(rows))]
    reasons = [row.rationale is not None for row in rows]
    enough = sum(reasons) >= OFTEN * len(rows) if AUTO in job.recipes else any(reasons)
    offers: set[Offer] = {"rationale"} if enough and any(row.rationale is not None for row in smallest) else set()
    if found.unlabelled:
        offers.add("unlabelled")
    if job.distils and found.task.kind == "generation":
        fewer = bool(job.spec.sizes or job.spec.max_train_rows or job.spec.budget or found.unlabelled)
        known = vocabularies.by_name(job, fewer_rows=fewer)
        known = shared if known is None else known
        if (known or 0.0) >= OFTEN or (AUTO not in job.recipes and known != 0.0):
            offers.add("tokens")
    return offers


def _publish(context: Context, item: Item, found: Examined) -> str:
    folder = context.scratch(item)
    for split, examples in found.splits.items():
        write_examples(folder / f"{split}.parquet", examples)
    if found.unlabelled:
        write_inputs(folder / "unlabelled.parquet", found.unlabelled)
    (folder / "task.json").write_text(found.task.model_dump_json(indent=1) + "\n", encoding="utf-8")
    with (folder / "rejected.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(row.model_dump_json() + "\n" for row in found.rejected)
    return context.artifacts.publish("dataset", folder).id


def _aside(rejected: Sequence[RejectedRow]) -> str:
    return f". {_rejections(rejected).message}" if rejected else ""


def _ignored(answered: int, rows: int) -> Event:
    return Event(
        level="warn",
        message=f"{answered} of {rows} rows of unlabelled_file have an output, which is not read: the teacher's answer "
        "takes its place. Rows with a right output belong into training_file",
    )


def _rejections(rejected: Sequence[RejectedRow]) -> Event:
    first, count = rejected[0], len(rejected)
    were = "1 row was" if count == 1 else f"{count} rows were"
    return Event(
        level="warn",
        message=f"{were} set aside; the first is line {first.line} of {first.split}: {first.reason}",
        data={"rejected_rows": len(rejected), "first": [row.model_dump() for row in rejected[:FIRST]]},
    )
