"""The report: what a job found out, as data (`report.json`). Imports no torch.

The command line, the dashboard and the page (`page`) all read the same Report. Accuracies and differences are shares
between 0 and 1 here; they become percent and points only where they are shown. Knows nothing of how the numbers were
measured.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, computed_field

from understudy.evaluation.compare import RULE, Difference, Verdict
from understudy.evaluation.spec import RowCounts
from understudy.schemas import TaskSpec, Word

__all__ = [
    "ArmRow",
    "BaselineRow",
    "Comparison",
    "ExampleRow",
    "Machine",
    "Published",
    "RationaleHits",
    "Report",
    "SeedRow",
    "TeacherRow",
    "points",
]


class _Part(BaseModel):
    """Unknown fields are ignored, so that an older client can read a newer report."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class SeedRow(_Part):
    seed: int
    accuracy: float
    validation_accuracy: float
    artifact: str
    steps: int
    seconds: float


class ArmRow(_Part):
    """One recipe over its seeds. `low` and `high` bound the accuracy on the test split with 95 % confidence."""

    recipe: str
    candidate: bool
    control_of: str | None
    accuracy: float
    low: float
    high: float
    validation_accuracy: float
    seeds: tuple[SeedRow, ...]
    parameters: int
    size_mb: float
    latency_ms: float
    steps: int
    seconds: float


class TeacherRow(_Part):
    model: str
    finetuned: bool
    parameters: int
    accuracy: float
    low: float
    high: float
    latency_ms: float | None


class BaselineRow(_Part):
    description: str
    accuracy: float


class Comparison(_Part):
    """`difference` is the accuracy of `arm` minus that of `against`; `p` is McNemar's, for a single seed."""

    arm: str
    against: str
    difference: float
    low: float
    high: float
    verdict: Verdict
    seeds: int
    p: float | None = None

    @classmethod
    def of(cls, arm: str, against: str, found: Difference) -> Comparison:
        return cls(
            arm=arm,
            against=against,
            difference=found.difference,
            low=found.low,
            high=found.high,
            verdict=found.verdict,
            seeds=found.seeds,
            p=found.p,
        )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def sentence(self) -> str:
        """`rationale_gate BEATS finetune by +2.1 points [+0.4, +3.9]`."""
        interval = f"{points(self.difference)} points [{points(self.low)}, {points(self.high)}]"
        if self.verdict == "BEATS":
            return f"{self.arm} BEATS {self.against} by {interval}"
        if self.verdict == "DOES NOT BEAT":
            return f"{self.arm} DOES NOT BEAT {self.against}: {interval}"
        return f"{self.arm} against {self.against} is INCONCLUSIVE: {interval}"


class RationaleHits(_Part):
    """Of the training rows whose answer's text is in the input: how often the teacher's words include part of it.

    `chance` is what as many random words of the same inputs would get, computed exactly.
    """

    rows: int
    with_answer_in_input: int
    share: float | None
    low: float | None
    high: float | None
    chance: float | None


class Published(_Part):
    recipe: str
    seed: int
    artifact: str
    why: str


class Machine(_Part):
    cpu: str
    cores: int
    threads: int
    device: str
    torch: str
    python: str


class ExampleRow(_Part):
    """A test example as the published student answered it; `words` are the reasons it names."""

    input: str
    expected: str
    given: str
    probability: float
    right: bool
    teacher: str | None
    words: tuple[Word, ...]


class Report(_Part):
    """All that a job found out; `teacher` and `rationale` are None where it had no teacher.

    `summary` is what a terminal prints above the table of arms.
    """

    job_id: str
    created_at: str
    task: TaskSpec
    rows: RowCounts
    rule: str = RULE
    arms: tuple[ArmRow, ...]
    teacher: TeacherRow | None
    baseline: BaselineRow
    comparisons: tuple[Comparison, ...]
    rationale: RationaleHits | None
    published: Published
    machine: Machine
    caveats: tuple[str, ...]
    examples: tuple[ExampleRow, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def summary(self) -> list[str]:
        """The verdicts in words, what was published and why, and what to keep in mind."""
        return [*(comparison.sentence for comparison in self.comparisons), self.published.why, *self.caveats]

    @property
    def headline(self) -> str:
        """The verdict on what was published; on the best of the others where that is `finetune` itself."""
        about = [one for one in self.comparisons if one.arm == self.published.recipe]
        others = sorted(self.comparisons, key=lambda one: -one.difference)
        against = [one for one in about or others if one.against == "finetune"]
        return (against or others)[0].sentence if others else self.published.why

    def arm(self, recipe: str) -> ArmRow:
        """One arm by its recipe."""
        return next(arm for arm in self.arms if arm.recipe == recipe)

    @property
    def student(self) -> ArmRow:
        """The arm whose model was published."""
        return self.arm(self.published.recipe)


def points(difference: float) -> str:
    """A difference of shares in points, with its sign: 0.021 -> `+2.1`. A true minus, as a reader expects."""
    rounded = round(100 * difference, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"
