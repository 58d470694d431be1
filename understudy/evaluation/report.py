"""The report: what a job found out, as data (`report.json`). Imports no torch.

The command line, the dashboard and the page (`page`) all read the same Report. Accuracies and differences are shares
between 0 and 1 here; they become percent and points only where they are shown. Knows nothing of how the numbers were
measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import computed_field, model_validator

from understudy.drift import Profile
from understudy.evaluation.compare import RULE, SIGNIFICANCE, Difference, Verdict, holm
from understudy.evaluation.details import (
    Agreement,
    Calibration,
    Confusion,
    Cost,
    CurvePoint,
    Part,
    Slice,
    TeacherMap,
    Temperature,
    WordsRow,
)
from understudy.evaluation.manifest import Manifest
from understudy.evaluation.spec import RowCounts, Searched
from understudy.schemas import TaskSpec, Word
from understudy.serving.published import EngineReport

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
    "corrected",
    "duration",
    "points",
]


class SeedRow(Part):
    seed: int
    accuracy: float
    validation_accuracy: float
    artifact: str
    steps: int
    seconds: float
    tokens: int = 0


class ArmRow(Part):
    """One recipe over its seeds. `low` and `high` bound the accuracy on the test split with 95 % confidence.

    `tokens` are those that one training read, `teacher_labelled` the rows that the teacher's label let it train on.
    """

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
    tokens: int = 0
    teacher_labelled: int = 0


class TeacherRow(Part):
    model: str
    finetuned: bool
    parameters: int
    accuracy: float
    low: float
    high: float
    latency_ms: float | None


class BaselineRow(Part):
    description: str
    accuracy: float


class Comparison(Part):
    """`difference` is the accuracy of `arm` minus that of `against`; see `compare.Difference` for the other figures.

    `p_holm` is `p` after Holm's correction over the `comparisons` of the report. `holds`: it BEATS, and even so at
    5 %. Both are None in reports from before there was a correction.
    """

    arm: str
    against: str
    difference: float
    low: float
    high: float
    verdict: Verdict
    seeds: int
    p: float | None = None
    p_holm: float | None = None
    comparisons: int = 1
    mcnemar: tuple[float, ...] = ()
    error_reduction: float | None = None
    cohens_h: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_before_the_correction(cls, given: Any) -> Any:
        """The `p` of a report without a correction was McNemar's, of a single seed."""
        if isinstance(given, dict) and given.get("p") is not None and "p_holm" not in given:
            return {**given, "mcnemar": (given["p"],), "p": None}
        return given

    @classmethod
    def of(cls, arm: str, against: str, found: Difference) -> Comparison:
        """One comparison on its own; `corrected` gives it its place among the others."""
        return cls(
            arm=arm,
            against=against,
            difference=found.difference,
            low=found.low,
            high=found.high,
            verdict=found.verdict,
            seeds=found.seeds,
            p=found.p,
            p_holm=found.p,
            mcnemar=found.mcnemar,
            error_reduction=found.error_reduction,
            cohens_h=found.cohens_h,
        )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def holds(self) -> bool | None:
        return None if self.p_holm is None else self.verdict == "BEATS" and self.p_holm <= SIGNIFICANCE

    @computed_field  # type: ignore[prop-decorator]
    @property
    def sentence(self) -> str:
        """`rationale_gate BEATS finetune by +2.1 points [+0.4, +3.9]`."""
        interval = f"{points(self.difference)} points [{points(self.low)}, {points(self.high)}]"
        if self.verdict == "BEATS":
            return f"{self.arm} BEATS {self.against} by {interval}{self._doubt}"
        if self.verdict == "DOES NOT BEAT":
            return f"{self.arm} DOES NOT BEAT {self.against}: {interval}"
        return f"{self.arm} against {self.against} is INCONCLUSIVE: {interval}"

    @property
    def _doubt(self) -> str:
        if self.holds is not False:
            return ""
        if self.comparisons > 1:
            return f" (not after Holm's correction over {self.comparisons} comparisons)"
        return f" (but p = {self.p_holm:.2g})"


def corrected(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The same comparisons with Holm's correction over all of them."""
    adjusted = holm([1.0 if one.p is None else one.p for one in comparisons])
    return tuple(
        one.model_copy(update={"p_holm": p, "comparisons": len(comparisons)})
        for one, p in zip(comparisons, adjusted, strict=True)
    )


class RationaleHits(Part):
    """Of the training rows whose answer's text is in the input: how often the teacher's words include part of it.

    `chance` is what as many random words of the same inputs would get, computed exactly.
    """

    rows: int
    with_answer_in_input: int
    share: float | None
    low: float | None
    high: float | None
    chance: float | None


class Published(Part):
    recipe: str
    seed: int
    artifact: str
    why: str


class Machine(Part):
    cpu: str
    cores: int
    threads: int
    device: str
    torch: str
    python: str


class ExampleRow(Part):
    """A test example as the published student answered it; `words` are the reasons it names."""

    input: str
    expected: str
    given: str
    probability: float
    right: bool
    teacher: str | None
    words: tuple[Word, ...]


class Report(Part):
    """All that a job found out; what is about the teacher is None or empty where it had none.

    `arms` are those on all training rows, `curve` holds the others beside them. `words_sample` says where the rows of
    `agreement` and `words` are from. `engines` is what the student was exported for when it was published. `summary` is
    what a terminal prints above the table of arms.
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
    curve: tuple[CurvePoint, ...] = ()
    searched: tuple[Searched, ...] = ()
    slices: tuple[Slice, ...] = ()
    confusion: Confusion | None = None
    calibration: tuple[Calibration, ...] = ()
    temperature: Temperature | None = None
    agreement: tuple[Agreement, ...] = ()
    words: tuple[WordsRow, ...] = ()
    words_sample: str = ""
    teacher_map: TeacherMap | None = None
    profile: Profile | None = None
    cost: Cost | None = None
    manifest: Manifest | None = None
    engines: EngineReport | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def summary(self) -> list[str]:
        """The verdicts in words, what was published and why, what to keep in mind, and engines that are left out."""
        left_out = [one.sentence for one in self.engines.results if not one.published] if self.engines else []
        verdicts = (comparison.sentence for comparison in self.comparisons)
        return [*verdicts, self.published.why, *self.caveats, *left_out]

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


def duration(seconds: float) -> str:
    """Two units at the most: 0.4 s, 21 s, 3 min 20 s, 2 h 5 min."""
    if abs(seconds) < 59.5:
        return f"{seconds:.1f} s" if abs(seconds) < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(abs(seconds)), 60)
    sign = "−" if seconds < 0 else ""
    return f"{sign}{minutes} min {rest} s" if minutes < 60 else f"{sign}{minutes // 60:,} h {minutes % 60} min"
