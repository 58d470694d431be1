"""How good a model's answers to a file's rows are, and whether they are better than another model's. Imports no torch.

The figures are those of the report, computed by the same functions; here one model answered once, so they speak of that
model on such rows, and not of the recipe that it was trained by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from understudy.ask import CHUNK, Student, ask
from understudy.data.read import read_rows
from understudy.data.rows import SourceRow, parse_row
from understudy.errors import InvalidRequest
from understudy.evaluation.answered import share
from understudy.evaluation.calibration import calibration
from understudy.evaluation.compare import compare
from understudy.evaluation.details import Calibration, Confusion, Estimate, Part
from understudy.evaluation.metrics import baseline, correctness
from understudy.evaluation.report import Comparison
from understudy.evaluation.slices import confusion
from understudy.schemas import Prediction, PredictionInput, TaskSpec

__all__ = ["Judged", "LabelFigures", "Outside", "judge"]


class LabelFigures(Part):
    """Of the rows with this label: how many, and the share that was answered so (`recall`, with its interval).

    `precision` is the share of right ones among the `answered` rows that were given the label, `f1` the harmonic mean
    of both; None where there is nothing to divide by.
    """

    label: str
    rows: int
    answered: int
    recall: Estimate | None
    precision: float | None
    f1: float | None


class Outside(Part):
    """A row whose answer the model cannot give, because it is none of its labels; it counts as wrong."""

    line: int
    output: str


class Judged(Part):
    """What came of one model on one file. `baseline` is what always giving the file's commonest answer would get.

    `outside` names the first rows of the `outside_rows` whose answer is none of the model's labels. `rejected` are rows
    that could not be read, which count nowhere. `comparison` is the paired difference to the model `against`.
    """

    model: str
    file: str
    rows: int
    accuracy: Estimate
    baseline: float
    baseline_says: str
    macro_f1: float | None
    labels: tuple[LabelFigures, ...]
    confusion: Confusion | None
    calibration: Calibration | None
    truncated: int
    outside_rows: int
    outside: tuple[Outside, ...]
    rejected_rows: int
    rejected: tuple[str, ...]
    against: str | None = None
    against_accuracy: Estimate | None = None
    against_outside_rows: int = 0
    comparison: Comparison | None = None


NAMED = 5
"""Rows of a kind that are named one by one."""


def judge(
    path: Path, student: Student, against: Student | None = None, step: Callable[[int], None] = lambda _: None
) -> Judged:
    """Ask one or two models about every row that has an answer. `step` is told how many are done.

    Raises InvalidRequest where no row can be read, and what a model says is wrong with one.
    """
    rejected: list[str] = []
    rows: list[SourceRow] = []
    given: list[Prediction] = []
    other: list[Prediction] = []
    source = _rows(path, rejected)
    while part := list(islice(source, CHUNK)):
        rows += part
        given += _answers(student, part)
        other += _answers(against, part) if against else []
        step(len(rows))
    if not rows:
        raise InvalidRequest(f"no row of '{path.name}' can be judged: {'; '.join(rejected[:3]) or 'it has no rows'}")
    task = student.task or TaskSpec()
    right = correctness(task, [one.label for one in given], rows)
    outside = _outside(task, rows)
    says, chance = baseline(task, [row.output for row in rows], rows)
    figures = _by_label(task, rows, given)
    scored = [one.f1 or 0.0 for one in figures if one.rows]
    found = Judged(
        model=student.name,
        file=str(path),
        rows=len(rows),
        accuracy=share(right),
        baseline=chance,
        baseline_says=says,
        macro_f1=sum(scored) / len(scored) if scored else None,
        labels=figures,
        confusion=confusion(task, rows, [one.label for one in given]),
        calibration=calibration(student.name, [one.probability for one in given], right),
        truncated=sum(one.truncated > 0 for one in given),
        outside_rows=len(outside),
        outside=tuple(Outside(line=row.line, output=row.output) for row in outside[:NAMED]),
        rejected_rows=len(rejected),
        rejected=tuple(rejected[:NAMED]),
    )
    if against is None:
        return found
    theirs_task = against.task or task
    theirs = correctness(theirs_task, [one.label for one in other], rows)
    names = (student.name, against.name) if student.name != against.name else ("the model", "the other")
    return found.model_copy(
        update={
            "against": against.name,
            "against_accuracy": share(theirs),
            "against_outside_rows": len(_outside(theirs_task, rows)),
            "comparison": Comparison.of(*names, compare({0: right}, {0: theirs})),
        }
    )


def _outside(task: TaskSpec, rows: Sequence[SourceRow]) -> list[SourceRow]:
    return [row for row in rows if task.labels and row.output not in task.labels]


def _rows(path: Path, rejected: list[str]) -> Iterator[SourceRow]:
    """The rows that have an answer; why the others cannot be read is added to `rejected`."""
    for line, row in read_rows(path):
        try:
            if isinstance(row, InvalidRequest):
                raise row
            yield parse_row(row, line)
        except InvalidRequest as error:
            rejected.append(f"line {line}: {error.message}")


def _answers(student: Student, rows: Sequence[SourceRow]) -> list[Prediction]:
    """The model's answers to rows whose own answers it does not see."""
    asked = [(row.line, PredictionInput(id=row.id, input=row.input, choices=row.choices)) for row in rows]
    return [one.prediction for one in ask(student, asked) if one.prediction]


def _by_label(task: TaskSpec, rows: Sequence[SourceRow], given: Sequence[Prediction]) -> tuple[LabelFigures, ...]:
    """Each label of the task, and each other that the rows name; nothing for tasks without labels."""
    if not task.labels:
        return ()
    expected = Counter(row.output for row in rows)
    answered = Counter(one.label for one in given)
    hits = Counter(row.output for row, one in zip(rows, given, strict=True) if row.output == one.label)
    names = dict.fromkeys([*task.labels, *sorted(expected)])
    return tuple(_figures(name, expected[name], answered[name], hits[name]) for name in names)


def _figures(label: str, rows: int, answered: int, hits: int) -> LabelFigures:
    return LabelFigures(
        label=label,
        rows=rows,
        answered=answered,
        recall=share([1.0] * hits + [0.0] * (rows - hits)) if rows else None,
        precision=hits / answered if answered else None,
        f1=2 * hits / (rows + answered) if rows + answered else None,
    )
