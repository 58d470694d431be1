"""The evaluation stage: every arm answers the test split, once, and the report says what came of it.

Nothing is chosen here by looking at the test split: the published arm is the one with the best validation accuracy.
Students are asked through the engine that will serve them.
"""

from __future__ import annotations

import hashlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from understudy.data.parquet import read_annotated, read_examples
from understudy.errors import InvalidRequest
from understudy.evaluation.caveats import Cut, caveats
from understudy.evaluation.compare import compare, mean_interval
from understudy.evaluation.hits import rationale_hits
from understudy.evaluation.metrics import baseline, correctness, wilson
from understudy.evaluation.page import render_html
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
)
from understudy.evaluation.spec import ArmResult, EvaluateSpec, RowCounts, TeacherFacts
from understudy.schemas import Example, Prediction, PredictionInput
from understudy.serving.base import Engine
from understudy.serving.hf import HFEngine

__all__ = ["ArmResult", "EvaluateSpec", "RowCounts", "TeacherFacts", "evaluate"]

_CHUNK = 256  # test rows between two words of progress
_WARM_UP, _TIMED_CALLS, _TIMED_SECONDS = 3, 50, 5.0
_SHOWN = 3  # examples of each kind, right and wrong
_READABLE = 700  # characters; a longer text is no example for a page


@dataclass(frozen=True)
class _Answered:
    """What one trained student did with the test split."""

    arm: ArmResult
    given: list[str]
    right: list[bool]
    truncated: int
    parameters: int
    size_mb: float
    latency_ms: float


def evaluate(spec: EvaluateSpec, out: Path, emit: Callable[[int, int], None]) -> Report:
    """Write `out/report.json` and `out/report.html` and return the report; where they are of these arms, only read it.

    `emit` is told how many test rows of all arms have been answered, and of how many.
    """
    finished = out / "report.json"
    if finished.is_file():
        earlier = Report.model_validate_json(finished.read_bytes())
        if _is_about(earlier, spec):
            return earlier
    test = read_examples(spec.test)
    if not test:
        raise InvalidRequest("the test split is empty, and there is nothing to evaluate on", param="test")
    teacher = _teacher_answers(spec.teacher, len(test)) if spec.teacher else None
    answered: list[_Answered] = []
    for arm in spec.arms:
        before, total = len(answered) * len(test), len(spec.arms) * len(test)
        answered.append(_answer(spec, arm, test, lambda done, before=before, total=total: emit(before + done, total)))  # type: ignore[misc]
    report = _report(spec, test, teacher, answered)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text(render_html(report), encoding="utf-8")
    aside = finished.with_suffix(".part")
    aside.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(aside, finished)
    return report


def _is_about(report: Report, spec: EvaluateSpec) -> bool:
    """Whether a report is of this job and of these very models."""
    reported = {(arm.recipe, run.seed, run.artifact) for arm in report.arms for run in arm.seeds}
    return report.job_id == spec.job_id and reported == {(arm.recipe, arm.seed, arm.artifact) for arm in spec.arms}


def _teacher_answers(teacher: TeacherFacts, rows: int) -> list[str]:
    lines = teacher.predictions.read_text(encoding="utf-8").splitlines()
    if len(lines) != rows:
        raise InvalidRequest(
            f"the teacher answered {len(lines)} rows and the test split has {rows}", param="teacher.predictions"
        )
    return [Prediction.model_validate_json(line).label for line in lines]


def _answer(spec: EvaluateSpec, arm: ArmResult, test: Sequence[Example], emit: Callable[[int], None]) -> _Answered:
    engine = HFEngine.load(arm.model, device=spec.device)
    answers: list[Prediction] = []
    for start in range(0, len(test), _CHUNK):
        inputs = [_input(example) for example in test[start : start + _CHUNK]]
        answers += engine.predict(inputs, explain=False, top_k=spec.top_k)
        emit(len(answers))
    given = [one.label for one in answers]
    return _Answered(
        arm=arm,
        given=given,
        right=correctness(spec.task, given, test),
        truncated=sum(one.truncated > 0 for one in answers),
        parameters=engine.info().parameters,
        size_mb=sum(path.stat().st_size for path in arm.model.glob("*.safetensors")) / 1e6,
        latency_ms=_latency(engine, test),
    )


def _input(example: Example) -> PredictionInput:
    return PredictionInput(id=example.id, input=example.input, choices=example.choices)


def _latency(engine: Engine, test: Sequence[Example]) -> float:
    """Median milliseconds of one answer at batch 1, over different inputs, after a warm-up."""
    times: list[float] = []
    started = time.perf_counter()
    for call in range(_WARM_UP + _TIMED_CALLS):
        row = _input(test[call % len(test)])
        before = time.perf_counter()
        engine.predict([row], explain=False, top_k=1)
        times.append(time.perf_counter() - before)
        if len(times) > _WARM_UP and time.perf_counter() - started > _TIMED_SECONDS:
            break
    return 1000 * statistics.median(times[_WARM_UP:])


def _report(
    spec: EvaluateSpec, test: Sequence[Example], teacher: list[str] | None, answered: Sequence[_Answered]
) -> Report:
    annotated = read_annotated(*spec.annotated) if spec.annotated else []
    plain_rows = read_examples(*spec.train)[: spec.rows.train] if spec.train else []
    outputs = [row.example.output for row in annotated] + [row.output for row in plain_rows]
    by_recipe: dict[str, list[_Answered]] = {}
    for one in answered:
        by_recipe.setdefault(one.arm.recipe, []).append(one)
    arms = tuple(_arm_row(runs) for runs in by_recipe.values())
    teacher_row = (
        _teacher_row(spec.teacher, correctness(spec.task, teacher, test)) if spec.teacher and teacher else None
    )
    comparisons = _comparisons(by_recipe)
    published = _published(arms)
    what, accuracy = baseline(spec.task, outputs, test)
    plain = BaselineRow(description=what, accuracy=accuracy)
    student = next(arm for arm in arms if arm.recipe == published.recipe)
    cut = Cut(
        teacher=sum(row.attribution.truncated > 0 for row in annotated),
        training=max(one.arm.truncated for one in answered),
        test=max(one.truncated for one in answered),
    )
    return Report(
        job_id=spec.job_id,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        task=spec.task,
        rows=spec.rows,
        arms=arms,
        teacher=teacher_row,
        baseline=plain,
        comparisons=comparisons,
        rationale=rationale_hits(annotated) if spec.teacher else None,
        published=published,
        machine=_machine(spec.device),
        caveats=caveats(spec, arms, teacher_row, comparisons, student=student, baseline=plain, cut=cut),
        examples=_examples(spec, test, teacher, next(one for one in answered if _is(one.arm, published))),
    )


def _arm_row(runs: Sequence[_Answered]) -> ArmRow:
    """One recipe over its seeds: Wilson's interval for one seed, the bootstrap over examples and seeds for several."""
    first = runs[0]
    accuracy, low, high = mean_interval({run.arm.seed: run.right for run in runs})
    if len(runs) == 1:
        low, high = wilson(sum(first.right), len(first.right))
    return ArmRow(
        recipe=first.arm.recipe,
        candidate=first.arm.candidate,
        control_of=first.arm.control_of,
        accuracy=accuracy,
        low=low,
        high=high,
        validation_accuracy=statistics.fmean(run.arm.validation_accuracy for run in runs),
        seeds=tuple(_seed_row(run) for run in sorted(runs, key=lambda run: run.arm.seed)),
        parameters=first.parameters,
        size_mb=first.size_mb,
        latency_ms=statistics.median(run.latency_ms for run in runs),
        steps=first.arm.steps,
        seconds=statistics.fmean(run.arm.seconds for run in runs),
    )


def _seed_row(run: _Answered) -> SeedRow:
    return SeedRow(
        seed=run.arm.seed,
        accuracy=statistics.fmean(run.right),
        validation_accuracy=run.arm.validation_accuracy,
        artifact=run.arm.artifact,
        steps=run.arm.steps,
        seconds=run.arm.seconds,
    )


def _teacher_row(teacher: TeacherFacts, right: Sequence[bool]) -> TeacherRow:
    low, high = wilson(sum(right), len(right))
    return TeacherRow(
        model=teacher.model,
        finetuned=teacher.finetuned,
        parameters=teacher.parameters,
        accuracy=sum(right) / len(right),
        low=low,
        high=high,
        latency_ms=teacher.latency_ms,
    )


def _comparisons(by_recipe: dict[str, list[_Answered]]) -> tuple[Comparison, ...]:
    """Each candidate against `finetune`, then against its own control on random words."""
    right = {recipe: {run.arm.seed: run.right for run in runs} for recipe, runs in by_recipe.items()}
    control = {runs[0].arm.control_of: recipe for recipe, runs in by_recipe.items() if runs[0].arm.control_of}
    pairs = [
        (recipe, against)
        for recipe, runs in by_recipe.items()
        if runs[0].arm.candidate and recipe != "finetune"
        for against in ("finetune", control.get(recipe))
    ]
    return tuple(
        Comparison.of(recipe, against, compare(right[recipe], right[against]))
        for recipe, against in pairs
        if against in right and against is not None
    )


def _published(arms: Sequence[ArmRow]) -> Published:
    """The candidate with the best mean validation accuracy, the plainer one where two are level; its best seed."""
    candidates = [arm for arm in arms if arm.candidate]
    best = max(candidates, key=lambda arm: arm.validation_accuracy)
    seed = max(best.seeds, key=lambda run: run.validation_accuracy)
    others = ", ".join(f"{arm.recipe} {100 * arm.validation_accuracy:.1f} %" for arm in candidates if arm is not best)
    chosen = f", and seed {seed.seed} is its best there" if len(best.seeds) > 1 else ""
    return Published(
        recipe=best.recipe,
        seed=seed.seed,
        artifact=seed.artifact,
        why=(
            f"{best.recipe} is published: its validation accuracy, {100 * best.validation_accuracy:.1f} %, is unbeaten "
            f"among the candidates ({others or 'there is no other'}){chosen}. The test split had no part in the choice."
        ),
    )


def _is(arm: ArmResult, published: Published) -> bool:
    return (arm.recipe, arm.seed) == (published.recipe, published.seed)


def _examples(
    spec: EvaluateSpec, test: Sequence[Example], teacher: Sequence[str] | None, run: _Answered
) -> tuple[ExampleRow, ...]:
    """A few answers of the published student with its reasons, right and wrong ones, drawn by hash and not by eye."""
    order = sorted(
        (place for place in range(len(test)) if len(test[place].input) <= _READABLE),
        key=lambda place: hashlib.sha256(test[place].input.encode("utf-8", "backslashreplace")).digest(),
    )
    right = [place for place in order if run.right[place]][:_SHOWN]
    wrong = [place for place in order if not run.right[place]][:_SHOWN]
    engine = HFEngine.load(run.arm.model, device=spec.device)
    shown = engine.predict([_input(test[place]) for place in right + wrong], explain=True, top_k=spec.top_k)
    return tuple(
        ExampleRow(
            input=test[place].input,
            expected=test[place].output,
            given=one.label,
            probability=one.probability,
            right=run.right[place],
            teacher=teacher[place] if teacher else None,
            words=one.words or (),
        )
        for place, one in zip(right + wrong, shown, strict=True)
    )


def _machine(device: str) -> Machine:
    chosen = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if chosen.startswith("cuda") else "CPU",
        torch=torch.__version__,
        python=platform.python_version(),
    )


def _cpu() -> str:
    """The processor's name, which `platform` does not know on Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
