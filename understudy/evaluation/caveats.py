"""What a reader must keep in mind about a report, derived from its own numbers. No torch, no opinions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from understudy.evaluation.report import ArmRow, BaselineRow, Comparison, TeacherRow
from understudy.evaluation.spec import EvaluateSpec, RowCounts
from understudy.training.recipes import parse_recipe

__all__ = ["Cut", "caveats"]

SMALL_TEST = 500
"""Below this many test examples an interval of paired arms is wider than about three points."""

SMALL_VALIDATION = 100
ENOUGH = 3.0
"""Passes over the training rows: on the docstring data a gain of five points at 1.7 passes was gone at six."""

MANY_REJECTED = 0.05


@dataclass(frozen=True)
class Cut:
    """How many rows were too long for a model: it never read their end, or could not write it."""

    teacher: int = 0  # of the training rows, as it explained them
    training: int = 0  # of the training rows, as the students read them
    test: int = 0  # of the test rows, as the students read them
    out_of_reach: int = 0  # of the test rows' expected answers, which a student may not write to their end
    broke_off: int = 0  # of the teacher's answers to the test rows


def caveats(
    spec: EvaluateSpec,
    arms: Sequence[ArmRow],
    teacher: TeacherRow | None,
    comparisons: Sequence[Comparison],
    *,
    student: ArmRow,
    baseline: BaselineRow,
    cut: Cut = Cut(),
) -> tuple[str, ...]:
    """Every caution that applies, the ones that matter most first. `student` is the published arm."""
    return (
        *spec.notes,
        *_about_baseline(student, teacher, baseline),
        *_about_length(spec.rows, cut),
        *_about_words(comparisons),
        *_about_training(spec),
        *_about_seeds(arms),
        *_about_rows(spec.rows, comparisons),
        *(_about_teacher(spec, arms, teacher) if teacher else ()),
        *_about_search(spec),
        *_about_comparisons(comparisons),
    )


def _about_baseline(student: ArmRow, teacher: TeacherRow | None, baseline: BaselineRow) -> list[str]:
    """A model that has not left the baseline behind has shown nothing, whatever the other numbers say."""
    named: Sequence[tuple[str, ArmRow | TeacherRow | None]] = [("published student", student), ("teacher", teacher)]
    return [
        f"The {name} ({100 * one.accuracy:.1f} %) is not shown to be better than the baseline, {baseline.description} "
        f"({100 * baseline.accuracy:.1f} %)."
        for name, one in named
        if one and one.low <= baseline.accuracy
    ]


def _about_length(rows: RowCounts, cut: Cut) -> list[str]:
    found = []
    if cut.teacher:
        found.append(
            f"The teacher read {cut.teacher:,} of {rows.train:,} training rows only up to the end of its window: no "
            "word behind it can be among its reasons."
        )
    if cut.training or cut.test:
        found.append(
            f"The students read {cut.training:,} of {rows.train:,} training rows and {cut.test:,} of {rows.test:,} "
            "test rows only up to the end of their window: shorten the texts, or take a student with a longer one."
        )
    if cut.out_of_reach:
        found.append(
            f"{cut.out_of_reach:,} of {rows.test:,} test rows have an expected answer that is longer than the students "
            "write, which goes by their longest training row: they cannot be right there."
        )
    if cut.broke_off:
        found.append(
            f"{cut.broke_off:,} of the teacher's {rows.test:,} answers to the test rows are longer than it writes, and "
            "broke off: what whole ones were worth is not known."
        )
    return found


def _about_words(comparisons: Sequence[Comparison]) -> list[str]:
    """A gain over label-only training that random words nearly reach is not the merit of the teacher's choice."""
    verdicts = {(one.arm, one.against): one.verdict for one in comparisons}
    unproven = [
        one.arm
        for one in comparisons
        if parse_recipe(one.against).random_words
        and one.verdict != "BEATS"
        and verdicts.get((one.arm, "finetune")) == "BEATS"
    ]
    if not unproven:
        return []
    return [
        f"Not shown to beat the same recipe on random words: {', '.join(unproven)}. How much of the gain over finetune "
        "is due to the teacher's choice of words, and how much to the recipe alone, stays open."
    ]


def _about_seeds(arms: Sequence[ArmRow]) -> list[str]:
    fewest = min(len(arm.seeds) for arm in arms)
    if fewest == 1:
        return [
            "One seed: the intervals show the luck of the test examples, not the luck of training. Run three seeds or "
            "more before relying on a verdict."
        ]
    if fewest < 3:
        return [f"{fewest} seeds: how much a recipe's result varies from seed to seed is known only roughly."]
    return []


def _about_rows(rows: RowCounts, comparisons: Sequence[Comparison]) -> list[str]:
    found = []
    if rows.test < SMALL_TEST and comparisons:
        half = 50 * max(one.high - one.low for one in comparisons)
        found.append(f"Only {rows.test:,} test examples: differences below about {half:.1f} points cannot be told.")
    if rows.validation < SMALL_VALIDATION:
        found.append(
            f"Only {rows.validation:,} validation examples: the best checkpoint and the published arm were chosen on "
            "little evidence."
        )
    given = rows.train + rows.validation + rows.test + rows.rejected
    if rows.rejected > MANY_REJECTED * given:
        found.append(f"{rows.rejected:,} of {given:,} rows were rejected: see the list of rejected rows.")
    return found


def _about_teacher(spec: EvaluateSpec, arms: Sequence[ArmRow], teacher: TeacherRow) -> list[str]:
    found = []
    saw = (spec.teacher and spec.teacher.trained_rows) or spec.rows.train
    if teacher.finetuned and _learned_elsewhere(spec):
        found.append(
            f"The teacher was fine-tuned on {saw:,} labelled rows and the students trained on {spec.rows.train:,} "
            "others: what it teaches comes from labels that they were not shown."
        )
    elif teacher.finetuned and saw > spec.rows.train:
        found.append(
            f"The teacher was fine-tuned on {saw:,} labelled rows and the students trained on {spec.rows.train:,}: "
            "part of what it teaches is labels that they were not shown."
        )
    elif teacher.finetuned:
        found.append(
            "The teacher was fine-tuned on the same labels as the students: it brings its size, and no other data."
        )
    if teacher.finetuned and spec.cut_from_teacher:
        found.append(_about_cuts(spec, saw))
    plain = next((arm for arm in arms if arm.recipe == "finetune"), None)
    if plain and teacher.accuracy <= plain.accuracy:
        found.append(
            f"The teacher ({100 * teacher.accuracy:.1f} %) is no better than the label-only student "
            f"({100 * plain.accuracy:.1f} %): there is little that it could teach."
        )
    return found


def _about_cuts(spec: EvaluateSpec, saw: int) -> str:
    """A baseline that begins with what another model learned from labels of this task is no plain one."""
    fewer = saw > min([spec.rows.train, *(one.size for one in spec.arms if one.size is not None)])
    learned = f"all {saw:,} labelled rows, however few of them an arm is trained on" if fewer else "the same rows"
    if _learned_elsewhere(spec):
        learned = f"{saw:,} labelled rows that no arm is trained on"
    return (
        f"The students are cut from the fine-tuned teacher, so each arm, finetune too, begins with layers that learned "
        f"from {learned}: finetune is no neutral start here, and what a recipe adds to it may be less than it "
        "adds to a student that has never seen the task."
    )


def _learned_elsewhere(spec: EvaluateSpec) -> bool:
    """Whether the teacher's labelled rows are others than the students'."""
    return spec.teacher is not None and spec.teacher.other_rows


def _about_search(spec: EvaluateSpec) -> list[str]:
    if not spec.searched:
        return []
    tried = {one.recipe for one in spec.searched}
    dropped = {one.recipe for one in spec.searched if not one.kept}
    rounds = max(one.round for one in spec.searched)
    how = f"short trainings in {rounds} rounds" if rounds > 1 else "a short training"
    return [
        f"{len(tried)} candidates were tried on {how} and {len(tried - dropped)} of them trained in full: a recipe "
        "that learns faster looks better there, and one that was dropped may have caught up."
    ]


def _about_comparisons(comparisons: Sequence[Comparison]) -> list[str]:
    """A claim that one test among many makes, or a sterner test does not, is a lead."""
    claimed = [one for one in comparisons if one.verdict == "BEATS"]
    open_ones = [one for one in claimed if one.holds is False]
    if not open_ones:
        return []
    if len(comparisons) == 1:
        return [
            "The interval excludes zero and the sterner test, which asks more of few seeds, does not: take BEATS as a "
            "lead."
        ]
    return [
        f"{len(comparisons)} comparisons: after Holm's correction {len(claimed) - len(open_ones)} of {len(claimed)} "
        "verdicts BEATS still stand at 5 %. Take the others as leads."
    ]


def _about_training(spec: EvaluateSpec) -> list[str]:
    found = []
    arms = [one for one in spec.arms if one.size is None]
    read = [(one.steps * one.batch_size, spec.rows.train + one.teacher_labelled) for one in arms if one.batch_size]
    passes = sorted(examples / rows for examples, rows in read)
    if passes and passes[0] < ENOUGH:
        times = " to ".join(dict.fromkeys(f"{one:.1f}" for one in (passes[0], passes[-1])))
        found.append(
            f"Each training row was seen about {times} times: a recipe that only learns faster looks better here "
            f"than after longer training. Raise {'seconds' if spec.seconds_each else 'max_steps'} to see whether a "
            "difference lasts."
        )
    taught = max(one.teacher_labelled for one in spec.arms)
    if taught:
        found.append(
            f"Recipes with teacher_labels trained on {taught:,} rows more, with the teacher's answers: what they gain "
            "is those rows' merit too, and finetune never saw them."
        )
    lacking = max(one.without_words for one in arms)
    if lacking:
        found.append(f"{lacking:,} training rows had no words from the teacher and trained the label alone.")
    untaught = max(one.without_distribution for one in arms)
    if untaught:
        found.append(
            f"Of {untaught:,} training rows logit_kd had no probabilities that the student could follow (its tokenizer "
            "may cut their answers into other tokens than the teacher's): they trained the label alone."
        )
    if spec.seconds_each:
        found.append(
            f"Each training had {spec.seconds_each:g} s of wall time, its validations left out, and not a number of "
            f"steps: they took {min(one.steps for one in arms):,} to {max(one.steps for one in arms):,}. A recipe that "
            "reads more in each step took fewer, and so did one beside which its machine had other work."
        )
    elif len({one.steps for one in arms}) > 1:
        found.append(
            "The arms did not take the same number of training steps: their difference is not the recipe's alone."
        )
    return found
