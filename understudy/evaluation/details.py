"""The parts of the report behind the verdicts: curve, slices, confusion, calibration, words, cost. Plain values.

Shares are between 0 and 1, intervals hold 95 %. Every part may be absent, so that an older report can be read. Knows
nothing of how the numbers were measured; the module that measures a part says what they mean.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from understudy.schemas import Word

__all__ = [
    "Agreement",
    "Calibration",
    "CalibrationBin",
    "Confused",
    "Confusion",
    "Cost",
    "CurvePoint",
    "Estimate",
    "MapRow",
    "Part",
    "Slice",
    "SliceCell",
    "TeacherMap",
    "Temperature",
    "WordsRow",
]


class Part(BaseModel):
    """Unknown fields are ignored, so that an older client can read a newer report."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Estimate(Part):
    value: float
    low: float
    high: float


class CurvePoint(Part):
    """A recipe trained on `size` labelled rows; `difference` is to `finetune` on as many, None for `finetune` itself.

    `whole` marks the runs on all labelled rows, which are the arms of the report.
    """

    recipe: str
    size: int
    seeds: int
    accuracy: Estimate
    difference: Estimate | None
    candidate: bool
    whole: bool = False


class SliceCell(Part):
    """What one model got right in a slice: `teacher`, `finetune` or the published recipe."""

    model: str
    accuracy: Estimate


class Slice(Part):
    """Test rows that have something in common; `small` where they are too few to say much."""

    by: str
    name: str
    rows: int
    small: bool
    cells: tuple[SliceCell, ...]


class Confused(Part):
    """`count` test rows of the label `expected`, of `of` in all, were answered `given`."""

    expected: str
    given: str
    count: int
    of: int


class Confusion(Part):
    """The published model's answers. `counts[i][j]` rows of label i were answered j; None where labels are many."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...] | None
    top: tuple[Confused, ...]


class CalibrationBin(Part):
    """Answers of like confidence: their mean confidence, and the share that was right."""

    rows: int
    confidence: float
    accuracy: float
    low: float
    high: float


class Calibration(Part):
    """How well one model's probabilities say how often it is right.

    `ece` is the expected calibration error over the bins, `ece_if_calibrated` what a perfectly calibrated model with
    these probabilities would show of it by the luck of so many rows. `brier` is the mean squared gap between the
    probability of the answer and whether it was right.
    """

    model: str
    seed: int | None
    rows: int
    confidence: float
    accuracy: float
    ece: float
    ece_if_calibrated: float
    brier: float
    bins: tuple[CalibrationBin, ...]


class Temperature(Part):
    """What the published model's log-probabilities over its candidates are divided by, so that they say how often it is
    right; no answer changes by it (Guo et al. 2017, arXiv 1706.04599).

    Fitted on `rows` validation rows, whose mean negative log-likelihood fell from `loss` to `loss_after`. `ece` and
    `ece_after` are the calibration errors on the test split, where nothing was fitted; `brier` likewise.
    """

    value: float
    rows: int
    loss: float
    loss_after: float
    ece: float
    ece_after: float
    ece_after_if_calibrated: float
    brier: float
    brier_after: float


class WordsRow(Part):
    """One training text with the words that a person, the teacher and the student name; None: nobody was asked."""

    input: str
    expected: str
    person: tuple[tuple[int, int], ...] | None
    teacher: tuple[Word, ...]
    student: tuple[Word, ...]


class Agreement(Part):
    """Two sides' words on the same texts: mean token F1, mean overlap, and both for random words (exact).

    `overlap` is the share of the `reference` side's words that `named` side names too.
    """

    named: str
    reference: str
    rows: int
    f1: Estimate
    overlap: Estimate
    f1_random: float
    overlap_random: float


class MapRow(Part):
    """One measure of faithfulness: of the teacher's words, of random ones, and the paired difference."""

    measure: str
    higher_is_better: bool
    words: Estimate
    random: Estimate
    difference: Estimate


class TeacherMap(Part):
    """Does the teacher need the words that it named? After ERASER (DeYoung et al. 2020)."""

    method: str
    rows: int
    split: str
    measures: tuple[MapRow, ...]


class Cost(Part):
    """Seconds are of wall time on the machine of the job; None where they were not told.

    `finetune` and `published` are one training each, `experiment` is every training of the report, controls, seeds and
    curve among them. `beyond` is what distilling one model cost more than fine-tuning it: the teacher's own
    fine-tuning, its annotation, and the longer training. `latency_ratio` and `parameters_ratio` are the teacher's
    figure divided by the published student's. After `repaid_after` answers one at a time, the time that the student
    saves on each has made up for `beyond`.
    """

    teacher_training: float | None = None
    annotation: float | None = None
    annotation_tokens: int | None = None
    finetune: float | None = None
    published: float | None = None
    experiment: float = 0.0
    experiment_tokens: int = 0
    runs: int = 0
    beyond: float | None = None
    latency_ratio: float | None = None
    parameters_ratio: float | None = None
    repaid_after: int | None = None
