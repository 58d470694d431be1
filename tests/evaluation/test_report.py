"""The report as data and in words."""

from __future__ import annotations

import subprocess
import sys

import pytest

from understudy.evaluation.compare import Difference
from understudy.evaluation.report import Comparison, Report, corrected, points


@pytest.mark.parametrize(("share", "text"), [(0.021, "+2.1"), (-0.0049, "−0.5"), (0.0004, "0.0"), (-0.0004, "0.0")])
def test_points_carry_their_sign(share: float, text: str) -> None:
    assert points(share) == text


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (Difference(0.021, 0.004, 0.039, 3), "a BEATS b by +2.1 points [+0.4, +3.9]"),
        (Difference(-0.01, -0.02, 0.002, 3), "a DOES NOT BEAT b: −1.0 points [−2.0, +0.2]"),
        (Difference(0.008, -0.012, 0.029, 3), "a against b is INCONCLUSIVE: +0.8 points [−1.2, +2.9]"),
    ],
)
def test_a_verdict_is_a_sentence(difference: Difference, sentence: str) -> None:
    assert Comparison.of("a", "b", difference).sentence == sentence


def test_a_claim_says_when_the_correction_takes_it_back() -> None:
    found = [Difference(0.02, 0.001, 0.04, 3, p) for p in (0.001, 0.03, 0.04)]
    first, second, third = corrected([Comparison.of("a", "b", one) for one in found])
    assert (first.p_holm, second.p_holm, third.p_holm) == pytest.approx((0.003, 0.06, 0.06))
    assert (first.holds, second.holds) == (True, False)
    assert first.sentence == "a BEATS b by +2.0 points [+0.1, +4.0]"
    assert second.sentence.endswith("[+0.1, +4.0] (not after Holm's correction over 3 comparisons)")
    assert Comparison.of("a", "b", Difference(0.02, 0.001, 0.04, 3, 0.08)).sentence.endswith("(but p = 0.08)")


def test_a_clear_loss_does_not_hold_as_a_gain() -> None:
    assert Comparison.of("a", "b", Difference(-0.2, -0.3, -0.1, 3, 0.0001)).holds is False


def test_a_report_from_before_the_correction_can_be_read(report: Report) -> None:
    new = {"curve", "searched", "slices", "confusion", "calibration", "agreement", "words", "words_sample"}
    data = report.model_dump(mode="json", exclude=new | {"teacher_map", "cost", "manifest"})
    old = ("arm", "against", "difference", "low", "high", "verdict", "seeds", "sentence")
    data["comparisons"] = [{**{key: one[key] for key in old}, "p": 0.03} for one in data["comparisons"]]
    data["arms"] = [{key: arm[key] for key in arm if key not in ("tokens", "teacher_labelled")} for arm in data["arms"]]
    read = Report.model_validate(data)
    assert (read.cost, read.curve, read.manifest) == (None, (), None)
    first = read.comparisons[0]
    assert (first.p, first.mcnemar, first.holds) == (None, (0.03,), None)  # its p was McNemar's, of one seed
    assert first.sentence == "rationale_gate BEATS finetune by +4.1 points [+1.2, +7.0]"


def test_the_headline_is_about_what_was_published(report: Report) -> None:
    assert report.headline.startswith("rationale_gate BEATS finetune")
    plain = report.published.model_copy(update={"recipe": "finetune"})
    assert report.model_copy(update={"published": plain}).headline.startswith("rationale_gate BEATS finetune")
    assert report.model_copy(update={"comparisons": ()}).headline == "rationale_gate is published."


def test_the_summary_holds_verdicts_choice_and_caveats_and_travels_in_the_json(report: Report) -> None:
    assert report.summary == [
        *(one.sentence for one in report.comparisons),
        "rationale_gate is published.",
        "Keep this in mind.",
    ]
    assert report.model_dump()["summary"] == report.summary
    assert report.model_dump()["comparisons"][0]["sentence"] == report.comparisons[0].sentence


def test_a_report_survives_the_wire_and_a_newer_services_fields(report: Report) -> None:
    text = report.model_dump_json()
    assert Report.model_validate_json(text) == report
    assert Report.model_validate_json(text.replace('"job_id"', '"new_field":1,"job_id"')) == report


def test_reading_a_report_imports_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, understudy.evaluation.page, understudy.evaluation.compare, understudy.evaluation.caveats, "
        "understudy.evaluation.hits, understudy.evaluation.assemble, understudy.display; "
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
