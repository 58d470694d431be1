"""The report: what a job found out, as data (`report.json`) and as a page (`report.html`). Imports no torch.

The command line, the dashboard and the page all read the same Report. Accuracies and differences are shares between 0
and 1 here; they become percent and points only where they are shown. Knows nothing of how the numbers were measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
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
    "render_html",
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
    teacher: str
    words: tuple[Word, ...]


class Report(_Part):
    """All that a job found out. `summary` is what a terminal prints above the table of arms."""

    job_id: str
    created_at: str
    task: TaskSpec
    rows: RowCounts
    rule: str = RULE
    arms: tuple[ArmRow, ...]
    teacher: TeacherRow
    baseline: BaselineRow
    comparisons: tuple[Comparison, ...]
    rationale: RationaleHits
    published: Published
    machine: Machine
    caveats: tuple[str, ...]
    examples: tuple[ExampleRow, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def summary(self) -> list[str]:
        """The verdicts in words, what was published and why, and what to keep in mind."""
        return [*(comparison.sentence for comparison in self.comparisons), self.published.why, *self.caveats]

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


def render_html(report: Report) -> str:
    """One self-contained page: no script, nothing fetched, readable in light and dark and by a screen reader."""
    return _page().render(report=report)


@cache
def _page() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"percent": _percent, "points": points, "count": _count, "marked": _marked}
    return environment.get_template("report.html.j2")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _count(number: int) -> str:
    """12,345 below a hundred thousand, then 1.2 M and 3.4 B."""
    for size, unit in ((10**9, "B"), (10**6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,}"


def _marked(text: str, words: Iterable[Word]) -> list[tuple[str, float | None]]:
    """The text in pieces, each with the share of the strongest word's score; None for a piece that is no reason."""
    chosen = sorted(words, key=lambda word: word.start)
    strongest = max((word.score for word in chosen), default=1.0) or 1.0
    pieces: list[tuple[str, float | None]] = []
    place = 0
    for word in chosen:
        if word.start < place:  # a word that another one already covers
            continue
        pieces += [(text[place : word.start], None), (text[word.start : word.end], max(0.0, word.score / strongest))]
        place = word.end
    return [piece for piece in [*pieces, (text[place:], None)] if piece[0]]
