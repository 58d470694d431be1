"""A job, a work item and an event as frozen records, and the one table of moves between a job's states.

Knows no SQL, no HTTP and no phase's work.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from understudy.errors import Conflict, UnderstudyError
from understudy.evaluation.spec import Searched
from understudy.models.names import PREFIX, base_of, cut_from, is_cut, parse_cut
from understudy.schemas import DistillationSpec, Hyperparameters, RejectedRow, SupervisedSpec, TaskSpec
from understudy.training.recipes import AUTO

__all__ = [
    "ACTIVE",
    "ENDED",
    "MOVES",
    "PHASES",
    "PLAIN",
    "QUEUES",
    "Arm",
    "Estimate",
    "Event",
    "Facts",
    "Item",
    "Job",
    "JobError",
    "NewItem",
    "Phase",
    "Queue",
    "Rows",
    "SetAside",
    "Status",
    "new_id",
]

Status = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled", "paused"]
"""OpenAI's states. Where a job is in *our* pipeline is its `phase`."""

MOVES: Mapping[Status, frozenset[Status]] = MappingProxyType(
    {
        "validating_files": frozenset({"queued", "paused", "failed", "cancelled"}),
        "queued": frozenset({"running", "paused", "failed", "cancelled"}),
        "running": frozenset({"succeeded", "paused", "failed", "cancelled"}),
        "paused": frozenset({"queued", "cancelled"}),
        "succeeded": frozenset(),
        "failed": frozenset(),
        "cancelled": frozenset(),
    }
)
ENDED = frozenset(status for status, moves in MOVES.items() if not moves)
ACTIVE: frozenset[Status] = frozenset({"validating_files", "queued", "running"})
"""The states in which workers may take a job's items."""

Phase = Literal["validate", "preflight", "teacher", "annotate", "search", "train", "evaluate", "publish", "done"]
PHASES: tuple[Phase, ...] = get_args(Phase)
PLAIN = "finetune"
"""The one recipe without a teacher."""
Queue = Literal["control", "annotate", "train"]
QUEUES: tuple[Queue, ...] = get_args(Queue)


def new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


def _clean(text: str) -> str:
    """Without what a database or a client cannot take: half characters, and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


Message = Annotated[str, AfterValidator(_clean)]


class JobError(Record):
    code: str
    message: Message
    param: str | None = None

    @classmethod
    def of(cls, error: UnderstudyError) -> JobError:
        return cls(code=error.code, message=error.message, param=error.param)


class Arm(Record):
    """One recipe that a job trains; a control is the yardstick of `control_of` and is never published."""

    name: str
    candidate: bool
    control_of: str | None = None


class Rows(Record):
    train: int
    validation: int
    test: int
    rejected: int
    unlabelled: int = 0


class SetAside(Record):
    """A shard of rows that was given up, and why: the job went on without it."""

    index: int
    unlabelled: bool
    rows: tuple[str, ...]
    error: JobError


class Estimate(Record):
    """What a job was expected to cost. Seconds are of one worker; None is not known, and `unknown` says why.

    After a search `runs` are at most so many: which arms are trained in full is not known before. `search_runs` are
    those of all its rounds, `search_steps_per_run` the steps of the last one.
    """

    runs: int
    steps_per_run: int
    search_runs: int = 0
    search_steps_per_run: int = 0
    teacher_examples: int
    teacher_calls: int
    seconds_by_phase: Mapping[str, float | None]
    seconds: float | None
    disk_bytes: int | None
    unknown: tuple[str, ...] = ()


class Facts(Record):
    """What the phases found out, each field written once by the phase that it is named beside."""

    began_at: float | None = None  # validate: earlier by the pauses before it, which `paused_seconds` counts
    stood_for: Mapping[str, str] = {}  # the artifact behind each alias that the job names, as it was then
    dataset: str | None = None
    task: TaskSpec | None = None
    rows: Rows | None = None
    rejected_rows: tuple[RejectedRow, ...] = ()
    architecture: str | None = None
    arms: tuple[Arm, ...] = ()  # search keeps the best of them
    searches: bool = False
    estimate: Estimate | None = None
    teacher: str | None = None  # preflight, or teacher where it is fine-tuned first
    fingerprint: str | None = None  # annotate
    annotated: int | None = None
    unlabelled_annotated: int | None = None
    set_aside: tuple[SetAside, ...] = ()
    teacher_tokens: int = 0
    searched: tuple[Searched, ...] = ()  # search
    trained_tokens: int | None = None  # train
    cuts: tuple[str, ...] = ()  # annotate and train: what the budget ended early
    findings: tuple[str, ...] = ()  # search: what its users should read
    report: str | None = None  # evaluate


class Job(Record):
    """`spec` is the method's; its `hyperparameters` and `seeds` are what was asked for, wherever that stood."""

    id: str
    status: Status = "validating_files"
    phase: Phase = "validate"
    created_at: int
    phase_started_at: float
    finished_at: int | None = None
    model: str
    training_file: str
    validation_file: str | None = None
    spec: DistillationSpec | SupervisedSpec
    suffix: str | None = None
    metadata: Mapping[str, str] | None = None
    traceparent: str | None = None  # of the request that made it: its work is part of that trace
    facts: Facts = Facts()
    paused_at: float | None = None
    paused_seconds: float = 0.0
    paused_before_phase: float = 0.0  # of those, the seconds before the phase began
    error: JobError | None = None
    fine_tuned_model: str | None = None
    result_files: tuple[str, ...] = ()

    def to(self, status: Status, **changes: Any) -> Self:
        """The job in another state. Raises Conflict when the table of moves has no such move."""
        if status not in MOVES[self.status]:
            can = ", ".join(sorted(MOVES[self.status])) or "nothing: it has ended"
            raise Conflict(f"job {self.id} is {self.status} and cannot become {status} (it can become {can})")
        return self.model_copy(update={"status": status, **changes})

    def with_facts(self, **facts: Any) -> Self:
        return self.model_copy(update={"facts": self.facts.model_copy(update=facts)})

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    @property
    def method(self) -> Literal["distillation", "supervised"]:
        return "distillation" if self.distils else "supervised"

    @property
    def distils(self) -> bool:
        """True when there is a teacher to learn from."""
        return isinstance(self.spec, DistillationSpec)

    @property
    def distillation(self) -> DistillationSpec:
        """The spec of a job that has a teacher; the phases that ask for it are left out of other jobs."""
        assert isinstance(self.spec, DistillationSpec)
        return self.spec

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that this job goes through, in order, `done` not among them."""
        without: set[Phase] = {"done"}
        if not self.distils:
            without |= {"preflight", "teacher", "annotate", "search"}
        elif not self.distillation.teacher.finetune:
            without.add("teacher")
        if not self.searches:
            without.add("search")
        return tuple(phase for phase in PHASES if phase not in without)

    def spares(self, phase: Phase, rows: int) -> bool:
        """Whether the job goes on where so many rows of the phase, in all, could not be worked on."""
        if not self.may_spare(phase):
            return False
        return rows <= self.distillation.max_failed_share * (self.train_rows + self.unlabelled_rows)

    def may_spare(self, phase: Phase) -> bool:
        """Whether the job may go on without some of the phase's work."""
        return phase == "annotate" and self.distillation.on_failed_shard == "skip"

    @property
    def searches(self) -> bool:
        """Whether candidates are tried on short trainings first; as asked for, until the arms are known."""
        if self.facts.arms:
            return self.facts.searches
        return self.distils and self.distillation.search == "auto" and AUTO in self.recipes

    def field(self, name: str) -> str:
        """The path of one of the method's own fields, as its user wrote it."""
        return f"method.{self.method}.{name}"

    @property
    def named(self) -> tuple[str, ...]:
        """The models that the job was given, any of which may be an alias; of a cut it is what is cut."""
        student = parse_cut(self.model).base if is_cut(self.model) else self.model
        return tuple(ref for ref in (student, self.distillation.teacher.model if self.distils else None) if ref)

    def meant(self, ref: str) -> str:
        """What a reference stands for in this job: an alias may move before the last arm begins.

        The reference itself where it is none, and in a job that began before its aliases were kept.
        """
        if is_cut(ref):
            cut = parse_cut(ref)
            return str(replace(cut, base=self.meant(cut.base))) if cut.base else ref
        return self.facts.stood_for.get(ref, ref)

    @property
    def teacher(self) -> str:
        """The model that teaches; where it is fine-tuned first, the untrained one until then."""
        return self.facts.teacher or self.meant(self.distillation.teacher.model)

    @property
    def student(self) -> str:
        """The model to train. A cut that names no model is one of the teacher, as it is after its fine-tuning."""
        return self.meant(cut_from(self.model, self.facts.teacher) if self.facts.teacher else self.model)

    @property
    def cut_from_teacher(self) -> bool:
        """Whether every student begins as a part of the job's teacher, as that answers its questions."""
        return self.facts.teacher is not None and is_cut(self.student) and base_of(self.student) == self.facts.teacher

    @property
    def student_so_far(self) -> str:
        """What can be known of the student before its teacher is trained: a cut of the untrained one, or its family."""
        if not is_cut(self.model) or parse_cut(self.model).base:
            return self.meant(self.model)
        return self.teacher if self.teacher.startswith(PREFIX) else cut_from(self.model, self.teacher)

    @property
    def files(self) -> Mapping[str, str]:
        """The uploaded files that the job reads, by the field that names each."""
        named = {
            "training_file": self.training_file,
            "validation_file": self.validation_file,
            self.field("test_file"): self.spec.test_file,
            self.field("unlabelled_file"): self.distillation.unlabelled_file if self.distils else None,
        }
        return {field: file_id for field, file_id in named.items() if file_id is not None}

    @property
    def recipes(self) -> tuple[str, ...]:
        """What was asked for, one recipe or several; a job without a teacher has one."""
        if not self.distils:
            return (PLAIN,)
        recipe = self.distillation.recipe
        return (recipe,) if isinstance(recipe, str) else recipe

    @property
    def seed(self) -> int:
        return self.spec.seeds[0]

    @property
    def hyperparameters(self) -> Hyperparameters:
        return self.spec.hyperparameters

    @property
    def alias(self) -> str:
        """The name under which the job publishes."""
        name = self.spec.alias or "production"
        return f"{name}-{self.suffix}" if self.suffix else name

    @property
    def train_rows(self) -> int:
        """Rows that the students learn from: all of the split, unless fewer were asked for, or annotated."""
        if self.facts.annotated is not None:
            return self.facts.annotated
        assert self.facts.rows is not None
        return min(self.facts.rows.train, self.spec.max_train_rows or self.facts.rows.train)

    @property
    def unlabelled_rows(self) -> int:
        """Rows that the teacher labels, or has labelled."""
        if self.facts.unlabelled_annotated is not None:
            return self.facts.unlabelled_annotated
        assert self.facts.rows is not None
        return self.facts.rows.unlabelled

    @property
    def sizes(self) -> tuple[int, ...]:
        """The smaller training sets of the learning curve; a budget may have left fewer rows than one of them."""
        return tuple(size for size in sorted(self.spec.sizes) if size < self.train_rows)


class NewItem(Record):
    """Work that a phase asks for: `total` is how much of its unit there is to do, 0 where only the worker can tell."""

    payload: Mapping[str, Any] = Field(default_factory=dict)
    total: int = 0


class Item(Record):
    """A unit of work as one worker holds it. `token` grows with every claim: a write with an older one is refused."""

    id: str
    job_id: str
    phase: Phase
    index: int
    queue: Queue
    payload: Mapping[str, Any]
    state: Literal["pending", "running", "done", "failed"]
    attempts: int
    max_attempts: int
    token: int
    worker: str | None = None
    completed: int = 0
    total: int = 0
    result: Mapping[str, Any] | None = None
    error: JobError | None = None
    finished_at: float | None = None


class Event(Record):
    """One line of a job's story."""

    message: Message
    level: Literal["info", "warn", "error"] = "info"
    type: Literal["message", "metrics"] = "message"
    data: Mapping[str, Any] | None = None
