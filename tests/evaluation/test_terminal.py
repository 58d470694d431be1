"""What the command line prints of a report."""

from __future__ import annotations

import io

from rich.console import Console

from understudy.display import report_view
from understudy.evaluation.report import Report


def _printed(report: Report, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(report_view(report))
    return out.getvalue()


def test_the_view_is_narrow_and_says_what_counts(report: Report) -> None:
    printed = _printed(report)
    assert max(len(line) for line in printed.splitlines()) <= 100
    said = " ".join(printed.split())
    for text in (
        "1,000 train · 600 validation · 634 test rows",
        "rationale_gate (published) 66.0 63.0 - 69.0 586 k 2.4 1.8",
        report.comparisons[0].sentence,
        "accuracy % with 100 rows 1,000 rows",
        "finetune 41.2 62.0",
        "after a short training: rationale_gate 51.7; not trained in full: logit_kd 43.3.",
        "Distilling took 3 min 50 s more than fine-tuning one student; the student's speed repays that after 97,500",
        "Keep this in mind.",
    ):
        assert text in said, text


def test_the_rounds_of_a_search_are_told_one_by_one(report: Report) -> None:
    last = report.searched[0].model_copy(update={"round": 2, "steps": 150, "validation_accuracy": 0.617})
    first = (report.searched[0], report.searched[1])
    said = " ".join(_printed(report.model_copy(update={"searched": (*first, last)})).split())
    assert "in round 1, after 75 steps: rationale_gate 51.7; dropped: logit_kd 43.3." in said
    assert "in round 2, after 150 steps: rationale_gate 61.7." in said


def test_controls_are_no_rows_of_the_curve(report: Report) -> None:
    assert _printed(report).count("+ random_rationale") == _printed(report.model_copy(update={"curve": ()})).count(
        "+ random_rationale"
    )


def test_an_older_report_is_shown_without_the_parts_that_it_lacks(report: Report) -> None:
    said = _printed(report.model_copy(update={"curve": (), "searched": (), "cost": None}))
    assert "accuracy % with" not in said
    assert "short training" not in said
    assert "Distilling took" not in said
