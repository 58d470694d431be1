"""Each caution appears when it applies, and only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from understudy.evaluation.caveats import Cut, caveats
from understudy.evaluation.compare import Difference
from understudy.evaluation.report import ArmRow, BaselineRow, Comparison, Report, corrected
from understudy.evaluation.spec import EvaluateSpec, RowCounts, Searched

MakeArm = Callable[..., ArmRow]

NOTHING_CUT = Cut()


@pytest.fixture
def cautions(make_spec: Callable[..., EvaluateSpec], make_arm: MakeArm, report: Report) -> Callable[..., str]:
    """`cautions(seeds=1)`: all caveats of a sound job, changed in one respect, as one text."""

    def say(
        seeds: int = 3,
        rows: dict[str, int] | None = None,
        finetuned: bool = False,
        accuracy: float = 0.9,
        baseline: float = 0.2,
        cut: Cut = NOTHING_CUT,
        **spec: Any,
    ) -> str:
        counts = RowCounts(**({"train": 1000, "validation": 500, "test": 2000} | (rows or {})))
        arms = [make_arm("finetune", 0.7, seeds), make_arm("rationale_gate", 0.8, seeds)]
        teacher = report.teacher.model_copy(update={"finetuned": finetuned, "accuracy": accuracy})
        one = [Comparison.of("rationale_gate", "finetune", Difference(0.1, 0.05, 0.15, seeds))]
        plain = BaselineRow(description="always 'rain'", accuracy=baseline)
        found = caveats(make_spec(rows=counts, **spec), arms, teacher, one, student=arms[1], baseline=plain, cut=cut)
        return " ".join(found)

    return say


def test_a_sound_job_needs_no_caution(cautions: Callable[..., str]) -> None:
    assert cautions() == ""


def test_a_gain_that_random_words_nearly_reach(make_spec: Callable[..., EvaluateSpec], report: Report) -> None:
    def said(against_random: Difference) -> str:
        pairs = [("finetune", Difference(0.1, 0.05, 0.15, 3)), ("rationale_gate+random_rationale", against_random)]
        found = [Comparison.of("rationale_gate", against, difference) for against, difference in pairs]
        return " ".join(
            caveats(make_spec(), report.arms, report.teacher, found, student=report.student, baseline=report.baseline)
        )

    assert "Not shown to beat the same recipe on random words: rationale_gate." in said(
        Difference(0.01, -0.02, 0.04, 3)
    )
    assert "random words" not in said(Difference(0.03, 0.01, 0.05, 3))


def test_a_training_of_few_passes(cautions: Callable[..., str], make_spec: Callable[..., EvaluateSpec]) -> None:
    def said(steps: int) -> str:
        update = {"steps": steps, "batch_size": 16}
        return cautions(arms=tuple(one.model_copy(update=update) for one in make_spec().arms))

    assert "seen about 1.2 times" in said(75)
    assert said(200) == ""


def test_rows_that_the_teacher_labelled_are_training_rows_too(
    cautions: Callable[..., str], make_spec: Callable[..., EvaluateSpec]
) -> None:
    arms = [one.model_copy(update={"steps": 200, "batch_size": 16}) for one in make_spec().arms]
    taught = arms[1].model_copy(update={"teacher_labelled": 1000})
    assert "seen about 1.6 to 3.2 times" in cautions(arms=(arms[0], taught))
    assert "seen about" not in cautions(arms=(arms[0], taught.model_copy(update={"steps": 400})))


def test_one_seed_and_two(cautions: Callable[..., str]) -> None:
    assert "One seed" in cautions(seeds=1)
    assert "2 seeds" in cautions(seeds=2)


def test_few_rows(cautions: Callable[..., str]) -> None:
    assert "Only 80 test examples: differences below about 5.0 points" in cautions(rows={"test": 80})
    assert "Only 20 validation examples" in cautions(rows={"validation": 20})
    assert "400 of 3,900 rows were rejected" in cautions(rows={"rejected": 400})


def test_a_fine_tuned_teacher(cautions: Callable[..., str], make_spec: Callable[..., EvaluateSpec]) -> None:
    assert "the same labels as the students" in cautions(finetuned=True)
    taught = make_spec().teacher.model_copy(update={"trained_rows": 3000})
    assert "fine-tuned on 3,000 labelled rows and the students trained on 1,000:" in cautions(
        finetuned=True, teacher=taught
    )


@pytest.mark.parametrize("saw", [900, 3000])
def test_a_teacher_of_other_rows_than_the_students(
    cautions: Callable[..., str], make_spec: Callable[..., EvaluateSpec], saw: int
) -> None:
    """However many they are: a number of rows does not say which ones."""
    elsewhere = make_spec().teacher.model_copy(update={"trained_rows": saw, "other_rows": True})
    said = cautions(finetuned=True, teacher=elsewhere, cut_from_teacher=True)
    assert f"fine-tuned on {saw:,} labelled rows and the students trained on 1,000 others" in said
    assert f"layers that learned from {saw:,} labelled rows that no arm is trained on" in said
    assert "same" not in said


def test_students_cut_from_a_teacher_that_learned_from_the_same_rows(
    cautions: Callable[..., str], make_spec: Callable[..., EvaluateSpec]
) -> None:
    said = cautions(finetuned=True, cut_from_teacher=True)
    assert "each arm, finetune too, begins with layers that learned from the same rows" in said
    assert "cut from" not in cautions(finetuned=True)
    assert "cut from" not in cautions(cut_from_teacher=True)  # what such a teacher has seen is not known
    point = make_spec().arms[0].model_copy(update={"size": 100})
    few = cautions(finetuned=True, cut_from_teacher=True, arms=(*make_spec().arms, point))
    assert "all 1,000 labelled rows, however few of them an arm is trained on" in few


def test_a_teacher_that_knows_no_more_than_its_student(cautions: Callable[..., str]) -> None:
    assert "The teacher (65.0 %) is no better than the label-only student (70.0 %)" in cautions(accuracy=0.65)


def test_models_that_the_baseline_may_equal(cautions: Callable[..., str]) -> None:
    # The published arm is at 80 % with an interval from 77 %, the teacher at 83 % as in the report.
    assert "baseline" not in cautions(baseline=0.76)
    said = cautions(baseline=0.78)
    assert "The published student (80.0 %) is not shown to be better than the baseline, always 'rain' (78.0 %)" in said
    assert "The teacher" not in said
    assert "The teacher (90.0 %) is not shown to be better" in cautions(baseline=0.85)


def test_answers_that_nobody_writes_to_their_end(cautions: Callable[..., str]) -> None:
    said = cautions(cut=Cut(out_of_reach=12))
    assert "12 of 2,000 test rows have an expected answer that is longer than the students write" in said
    assert "3 of the teacher's 2,000 answers to the test rows are longer than it writes" in cautions(
        cut=Cut(broke_off=3)
    )


def test_texts_that_are_longer_than_a_window(cautions: Callable[..., str]) -> None:
    assert "The teacher read 40 of 1,000 training rows only up to the end" in cautions(cut=Cut(teacher=40))
    said = cautions(cut=Cut(training=30, test=2))
    assert "The students read 30 of 1,000 training rows and 2 of 2,000 test rows only up to the end" in said
    assert "The teacher read" not in said


def test_rows_without_words_and_arms_of_unequal_length(
    cautions: Callable[..., str], make_spec: Callable[..., EvaluateSpec]
) -> None:
    arms = make_spec().arms
    assert "7 training rows had no words" in cautions(arms=(arms[0], arms[1].model_copy(update={"without_words": 7})))
    assert "same number of training steps" in cautions(arms=(arms[0], arms[1].model_copy(update={"steps": 11})))
    taught = arms[1].model_copy(update={"teacher_labelled": 900})
    assert "on 900 rows more, with the teacher's answers" in cautions(arms=(arms[0], taught))


def test_arms_that_had_equal_time_and_not_equal_steps(
    cautions: Callable[..., str], make_spec: Callable[..., EvaluateSpec]
) -> None:
    arms = make_spec().arms
    unequal = (arms[0], arms[1].model_copy(update={"steps": 8}))
    said = cautions(arms=unequal, seconds_each=90.0)
    assert "Each training had 90 s of wall time, its validations left out" in said
    assert "they took 8 to 10" in said
    assert "same number of training steps" not in said


def test_rows_whose_tokens_the_student_does_not_share(
    cautions: Callable[..., str], make_spec: Callable[..., EvaluateSpec]
) -> None:
    arms = make_spec().arms
    said = cautions(arms=(arms[0], arms[1].model_copy(update={"without_distribution": 12})))
    assert "Of 12 training rows logit_kd had no probabilities that the student could follow" in said


def test_a_claim_that_does_not_survive_the_correction_is_a_lead(
    make_spec: Callable[..., EvaluateSpec], report: Report
) -> None:
    def said(*p_values: float) -> str:
        one = report.comparisons[0]
        found = corrected([one.model_copy(update={"p": p, "p_holm": p}) for p in p_values])
        spec = make_spec()
        return " ".join(
            caveats(spec, report.arms, report.teacher, found, student=report.student, baseline=report.baseline)
        )

    assert "2 comparisons: after Holm's correction 1 of 2 verdicts BEATS still stand" in said(0.001, 0.06)
    assert "sterner test" in said(0.06)
    assert "lead" not in said(0.02, 0.03)


def test_a_search_on_a_short_training(cautions: Callable[..., str]) -> None:
    tried = (
        Searched(recipe="finetune", validation_accuracy=0.5, steps=60, kept=True),
        Searched(recipe="logit_kd", validation_accuracy=0.4, steps=60, kept=False),
    )
    assert "2 candidates were tried on a short training and 1 of them trained in full" in cautions(searched=tried)
    more = (
        *(Searched(recipe=name, validation_accuracy=0.5, steps=60, kept=True) for name in ("saliency", "logit_kd")),
        Searched(recipe="saliency", validation_accuracy=0.6, steps=120, kept=True, round=2),
        Searched(recipe="logit_kd", validation_accuracy=0.5, steps=120, kept=False, round=2),
    )
    said = cautions(searched=(tried[0], *more))
    assert "3 candidates were tried on short trainings in 2 rounds and 2 of them trained in full" in said


def test_points_of_the_learning_curve_are_no_arms(
    cautions: Callable[..., str], make_spec: Callable[..., EvaluateSpec]
) -> None:
    arms = make_spec().arms
    point = arms[0].model_copy(update={"size": 100, "steps": 3, "without_words": 5, "batch_size": 1})
    assert cautions(arms=(*arms, point)) == ""
