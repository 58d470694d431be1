"""The report from what every arm answered: who is compared with whom, what is published, and all the parts. No torch.

Nothing is chosen here by looking at the test split: the published arm is the one with the best validation accuracy.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from understudy.data.parquet import AnnotatedExample, read_examples
from understudy.drift import Profile
from understudy.evaluation.agreement import agreements, side_by_side, teacher_map
from understudy.evaluation.answered import Answered, accuracy, by_recipe, right_of, share
from understudy.evaluation.calibration import calibration
from understudy.evaluation.caveats import Cut, caveats
from understudy.evaluation.compare import Right, compare
from understudy.evaluation.cost import cost
from understudy.evaluation.curve import curve
from understudy.evaluation.details import Calibration
from understudy.evaluation.hits import rationale_hits
from understudy.evaluation.manifest import Manifest
from understudy.evaluation.metrics import baseline, correctness
from understudy.evaluation.report import (
    ArmRow,
    BaselineRow,
    Comparison,
    ExampleRow,
    Machine,
    Published,
    Report,
    SeedRow,
    TeacherRow,
    corrected,
)
from understudy.evaluation.slices import confusion, slices
from understudy.evaluation.spec import ArmResult, EvaluateSpec, TeacherFacts
from understudy.schemas import Example, Prediction, Word
from understudy.training.recipes import parse_recipe

__all__ = ["Explained", "assemble", "drawn", "published"]

_SHOWN = 3  # examples of each kind, right and wrong
_READABLE = 700  # characters; a longer text is no example for a page


@dataclass(frozen=True)
class Explained:
    """The published student with its reasons.

    `shown` are its answers to the test rows at `places`, `words` the reasons that it names in the `sample` of the
    `annotated` rows. `words_found` and `words_dropped` count those that it names in test rows, in the input and not,
    where it is asked for `top_k` at most.
    """

    places: Sequence[int]
    shown: Sequence[Prediction]
    words_found: int
    words_dropped: int
    top_k: int
    annotated: Sequence[AnnotatedExample]
    sample: Sequence[AnnotatedExample]
    words: Sequence[Sequence[Word]]


def published(spec: EvaluateSpec) -> ArmResult:
    """Of the candidates on all rows the one with the best mean validation accuracy, with its best seed there.

    Where two are level it is the plainer one, which comes first.
    """
    runs: dict[str, list[ArmResult]] = {}
    for arm in spec.arms:
        if arm.candidate and arm.size is None:
            runs.setdefault(arm.recipe, []).append(arm)
    best = max(runs.values(), key=lambda seeds: statistics.fmean(one.validation_accuracy for one in seeds))
    return max(sorted(best, key=lambda one: one.seed), key=lambda one: one.validation_accuracy)


def drawn(test: Sequence[Example], right: Sequence[bool]) -> list[int]:
    """Places of a few test rows, answered rightly and wrongly, drawn by hash and not by eye."""
    order = sorted(
        (place for place in range(len(test)) if len(test[place].input) <= _READABLE),
        key=lambda place: hashlib.sha256(test[place].input.encode("utf-8", "backslashreplace")).digest(),
    )
    return [
        *[place for place in order if right[place]][:_SHOWN],
        *[place for place in order if not right[place]][:_SHOWN],
    ]


def assemble(
    spec: EvaluateSpec,
    test: Sequence[Example],
    teacher: Sequence[Prediction] | None,
    answered: Sequence[Answered],
    explained: Explained,
    machine: Machine,
) -> Report:
    """The whole report. `teacher` are its answers to the test rows, None where there was no teacher."""
    runs = by_recipe(one for one in answered if one.arm.size is None)
    right = {recipe: right_of(seeds) for recipe, seeds in runs.items()}
    arms = tuple(_arm_row(seeds) for seeds in runs.values())
    teacher_right = correctness(spec.task, [one.label for one in teacher], test) if teacher else []
    teacher_row = _teacher_row(spec.teacher, teacher_right) if spec.teacher and teacher else None
    comparisons = corrected(_comparisons(runs, right))
    chosen = published(spec)
    run = next(one for one in answered if one.arm == chosen)
    student = next(arm for arm in arms if arm.recipe == chosen.recipe)
    plain = _baseline(spec, test, explained.annotated)
    models: dict[str, Right] = {"teacher": {0: teacher_right}} if teacher else {}
    models |= {recipe: right[recipe] for recipe in ("finetune", chosen.recipe) if recipe in right}
    return Report(
        job_id=spec.job_id,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        task=spec.task,
        rows=spec.rows,
        arms=arms,
        teacher=teacher_row,
        baseline=plain,
        comparisons=comparisons,
        rationale=rationale_hits(explained.annotated) if spec.teacher else None,
        published=_published(arms, chosen),
        machine=machine,
        caveats=caveats(
            spec,
            arms,
            teacher_row,
            comparisons,
            student=student,
            baseline=plain,
            cut=_cut(explained.annotated, [one for seeds in runs.values() for one in seeds], teacher or ()),
        ),
        examples=_examples(test, teacher, run, explained),
        curve=curve(answered, spec.rows.train),
        searched=spec.searched,
        slices=slices(spec.task, test, models),
        confusion=confusion(spec.task, test, run.given),
        calibration=_calibration(teacher, teacher_right, run, runs.get("finetune", [])),
        agreement=agreements(explained.sample, explained.words),
        words=side_by_side(explained.sample, explained.words),
        words_sample=_whose(explained),
        teacher_map=teacher_map(spec.map_faithfulness) if spec.map_faithfulness else None,
        profile=Profile(
            rows=len(test),
            labels={label: run.given.count(label) for label in spec.task.labels or ()},
            words_found=explained.words_found,
            words_dropped=explained.words_dropped,
            top_k=explained.top_k,
        ),
        cost=cost(spec.arms, arms, student, spec.teacher),
        manifest=_manifest(spec, answered),
    )


def _baseline(spec: EvaluateSpec, test: Sequence[Example], annotated: Sequence[AnnotatedExample]) -> BaselineRow:
    plain = read_examples(*spec.train)[: spec.rows.train] if spec.train else []
    outputs = [row.example.output for row in annotated] + [row.output for row in plain]
    what, accuracy = baseline(spec.task, outputs, test)
    return BaselineRow(description=what, accuracy=accuracy)


def _cut(annotated: Iterable[AnnotatedExample], answered: Sequence[Answered], teacher: Sequence[Prediction]) -> Cut:
    return Cut(
        teacher=sum(row.attribution.truncated > 0 for row in annotated),
        training=max(one.arm.truncated for one in answered),
        test=max(one.truncated for one in answered),
        out_of_reach=max(one.out_of_reach for one in answered),
        broke_off=sum(one.unfinished for one in teacher),
    )


def _arm_row(runs: Sequence[Answered]) -> ArmRow:
    first = runs[0]
    found = accuracy(right_of(runs))
    return ArmRow(
        recipe=first.arm.recipe,
        candidate=first.arm.candidate,
        control_of=first.arm.control_of,
        accuracy=found.value,
        low=found.low,
        high=found.high,
        validation_accuracy=statistics.fmean(run.arm.validation_accuracy for run in runs),
        seeds=tuple(_seed_row(run) for run in sorted(runs, key=lambda run: run.arm.seed)),
        parameters=first.parameters,
        size_mb=first.size_mb,
        latency_ms=statistics.median(run.latency_ms for run in runs),
        steps=first.arm.steps,
        seconds=statistics.fmean(run.arm.seconds for run in runs),
        tokens=round(statistics.fmean(run.arm.tokens for run in runs)),
        teacher_labelled=first.arm.teacher_labelled,
    )


def _seed_row(run: Answered) -> SeedRow:
    return SeedRow(
        seed=run.arm.seed,
        accuracy=statistics.fmean(run.right),
        validation_accuracy=run.arm.validation_accuracy,
        artifact=run.arm.artifact,
        steps=run.arm.steps,
        seconds=run.arm.seconds,
        tokens=run.arm.tokens,
    )


def _teacher_row(teacher: TeacherFacts, right: Sequence[bool]) -> TeacherRow:
    found = share(right)
    return TeacherRow(
        model=teacher.model,
        finetuned=teacher.finetuned,
        parameters=teacher.parameters,
        accuracy=found.value,
        low=found.low,
        high=found.high,
        latency_ms=teacher.latency_ms,
    )


def _comparisons(runs: Mapping[str, Sequence[Answered]], right: Mapping[str, Right]) -> list[Comparison]:
    """Each candidate against `finetune`, against the same recipe without reasons, and against its own controls."""
    pairs = []
    for recipe, seeds in runs.items():
        if not seeds[0].arm.candidate or recipe == "finetune":
            continue
        controls = [name for name, others in runs.items() if others[0].arm.control_of == recipe]
        against = dict.fromkeys(["finetune", parse_recipe(recipe).without_rationale.name, *controls])
        pairs += [(recipe, other) for other in against if other in runs and other != recipe]
    return [
        Comparison.of(recipe, other, compare(right[recipe], right[other]))
        for recipe, other in pairs
        if set(right[recipe]) & set(right[other])
    ]


def _manifest(spec: EvaluateSpec, answered: Sequence[Answered]) -> Manifest | None:
    """What the job knows of its trainings, with the figures that a second one must give."""
    manifest = spec.manifest
    for one in answered if manifest else ():
        arm, accuracy = one.arm, statistics.fmean(one.right)
        manifest = manifest and manifest.answered(arm.recipe, arm.seed, arm.size, accuracy, one.given)
    return manifest


def _published(arms: Sequence[ArmRow], chosen: ArmResult) -> Published:
    candidates = [arm for arm in arms if arm.candidate]
    best = next(arm for arm in candidates if arm.recipe == chosen.recipe)
    others = ", ".join(f"{arm.recipe} {100 * arm.validation_accuracy:.1f} %" for arm in candidates if arm is not best)
    seed = f", and seed {chosen.seed} is its best there" if len(best.seeds) > 1 else ""
    return Published(
        recipe=chosen.recipe,
        seed=chosen.seed,
        artifact=chosen.artifact,
        why=(
            f"{best.recipe} is published: its validation accuracy, {100 * best.validation_accuracy:.1f} %, is unbeaten "
            f"among the candidates ({others or 'there is no other'}){seed}. The test split had no part in the choice."
        ),
    )


def _calibration(
    teacher: Sequence[Prediction] | None, right: Sequence[bool], run: Answered, plain: Sequence[Answered]
) -> tuple[Calibration, ...]:
    """Of the teacher, of `finetune` with the published seed (or its first), and of the published model."""
    found = [calibration("teacher", [one.probability for one in teacher], right)] if teacher else []
    beside = [one for one in plain if one.arm.seed == run.arm.seed] or list(plain)
    for one in [*beside[:1], run] if run.arm.recipe != "finetune" else [run]:
        found.append(calibration(one.arm.recipe, one.probabilities, one.right, seed=one.arm.seed))
    return tuple(found)


def _whose(explained: Explained) -> str:
    if not explained.sample:
        return ""
    return (
        f"{len(explained.sample):,} of {len(explained.annotated):,} training rows, drawn by the hash of their text. "
        "The student was trained on them, so on new texts it may agree less."
    )


def _examples(
    test: Sequence[Example], teacher: Sequence[Prediction] | None, run: Answered, explained: Explained
) -> tuple[ExampleRow, ...]:
    return tuple(
        ExampleRow(
            input=test[place].input,
            expected=test[place].output,
            given=one.label,
            probability=one.probability,
            right=run.right[place],
            teacher=teacher[place].label if teacher else None,
            words=one.words or (),
        )
        for place, one in zip(explained.places, explained.shown, strict=True)
    )
