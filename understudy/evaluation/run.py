"""The evaluation stage: every arm answers the test split, once, and the report says what came of it.

Nothing is chosen here by looking at the test split. Students are asked through the engine that will serve them.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from understudy.data.parquet import read_annotated, read_examples
from understudy.environment import cores, cpu_name
from understudy.errors import InvalidRequest
from understudy.evaluation.agreement import SAMPLE, draw, sample
from understudy.evaluation.answered import Answered
from understudy.evaluation.assemble import Explained, assemble, drawn, published
from understudy.evaluation.calibration import calibration
from understudy.evaluation.details import Temperature
from understudy.evaluation.metrics import correctness
from understudy.evaluation.page import render_html
from understudy.evaluation.report import Machine, Report
from understudy.evaluation.spec import ArmResult, EvaluateSpec, RowCounts, TeacherFacts
from understudy.evaluation.temperature import fit_temperature, likelihood
from understudy.schemas import Example, Prediction, PredictionInput, PredictionRequest
from understudy.serving.base import Engine
from understudy.serving.hf import HFEngine

__all__ = ["ANSWERS", "ArmResult", "EvaluateSpec", "RowCounts", "TeacherFacts", "answers", "evaluate"]

ANSWERS = "answers.jsonl"
"""The published student's answers to a sample of the annotated rows, beside the report."""

_CHUNK = 256  # test rows between two words of progress
_PROFILED: int = PredictionRequest.model_fields["top_k"].default
"""Words that requests ask for unless they say otherwise: the profile is for comparing their answers with."""
_WARM_UP, _TIMED_CALLS, _TIMED_SECONDS = 3, 50, 5.0


def evaluate(spec: EvaluateSpec, out: Path, emit: Callable[[int, int], None]) -> Report:
    """Write `out/report.json` and `out/report.html` and return the report; where they are of these arms, only read it.

    `emit` is told how many test rows of all arms have been answered, and of how many. Raises InvalidRequest (param
    `arms`, `test` or `teacher.predictions`) where there is nothing to compare, to ask, or to pair.
    """
    finished = out / "report.json"
    if finished.is_file():
        earlier = Report.model_validate_json(finished.read_bytes())
        if _is_about(earlier, spec):
            return earlier
    test = read_examples(spec.test)
    if not test:
        raise InvalidRequest("the test split is empty, and there is nothing to evaluate on", param="test")
    if not any(arm.candidate and arm.size is None for arm in spec.arms):
        raise InvalidRequest("no candidate was trained on all rows, so there is nothing to publish", param="arms")
    teacher = _teacher_answers(spec.teacher, len(test)) if spec.teacher else None
    answered: list[Answered] = []
    for arm in spec.arms:
        before, total = len(answered) * len(test), len(spec.arms) * len(test)
        answered.append(_answer(spec, arm, test, lambda done, before=before, total=total: emit(before + done, total)))  # type: ignore[misc]
    run = next(one for one in answered if one.arm == published(spec))
    explained = _explain(spec, test, run, out / ANSWERS)
    report = assemble(spec, test, teacher, answered, explained, _machine(spec.device))
    report = report.model_copy(update={"temperature": _temperature(spec, test, run)})
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text(render_html(report), encoding="utf-8")
    aside = finished.with_suffix(".part")
    aside.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(aside, finished)
    return report


def _is_about(report: Report, spec: EvaluateSpec) -> bool:
    """Whether a report is of this job, of these very models, and of the same points of a learning curve."""
    reported = {(arm.recipe, run.seed, run.artifact) for arm in report.arms for run in arm.seeds}
    wanted = {(arm.recipe, arm.seed, arm.artifact) for arm in spec.arms if arm.size is None}
    points = {(one.recipe, one.size) for one in report.curve if not one.whole}
    sized = {(arm.recipe, arm.size) for arm in spec.arms if arm.size is not None and arm.size < spec.rows.train}
    return report.job_id == spec.job_id and reported == wanted and points == sized


def _teacher_answers(teacher: TeacherFacts, rows: int) -> list[Prediction]:
    lines = teacher.predictions.read_text(encoding="utf-8").splitlines()
    if len(lines) != rows:
        raise InvalidRequest(
            f"the teacher answered {len(lines)} rows and the test split has {rows}", param="teacher.predictions"
        )
    return [Prediction.model_validate_json(line) for line in lines]


def _answer(spec: EvaluateSpec, arm: ArmResult, test: Sequence[Example], emit: Callable[[int], None]) -> Answered:
    engine = HFEngine.load(arm.model, device=spec.device)
    said = answers(engine, test, emit)
    given = [one.label for one in said]
    return Answered(
        arm=arm,
        given=given,
        probabilities=[one.probability for one in said],
        right=correctness(spec.task, given, test),
        truncated=sum(one.truncated > 0 for one in said),
        parameters=engine.info().parameters,
        size_mb=sum(path.stat().st_size for path in arm.model.glob("*.safetensors")) / 1e6,
        latency_ms=_latency(engine, test) if arm.size is None else 0.0,
        out_of_reach=sum(not engine.adapter.reaches(one.output) for one in _written(spec, test)),
    )


def _written(spec: EvaluateSpec, test: Sequence[Example]) -> Sequence[Example]:
    """The test rows whose answers a student writes, and does not choose."""
    return test if spec.task.kind == "generation" else ()


def answers(engine: Engine, test: Sequence[Example], emit: Callable[[int], None]) -> list[Prediction]:
    """What a student says of each row, without its reasons; `emit` is told how many rows it has answered."""
    said: list[Prediction] = []
    for start in range(0, len(test), _CHUNK):
        inputs = [_input(example) for example in test[start : start + _CHUNK]]
        said += engine.predict(inputs, explain=False, top_k=1)
        emit(len(said))
    return said


def _explain(spec: EvaluateSpec, test: Sequence[Example], run: Answered, kept: Path) -> Explained:
    """The published student's reasons for a few test rows, and for a sample of the rows that the teacher annotated.

    Its answers to that sample are kept as JSON lines, each with the row's `place` among the annotated ones.
    """
    engine = HFEngine.load(run.arm.model, device=spec.device)
    annotated = read_annotated(*spec.annotated) if spec.annotated else []
    rows = sample(annotated)

    def ask(examples: Sequence[Example], top_k: int = spec.top_k) -> list[Prediction]:
        return engine.predict([_input(one) for one in examples], explain=True, top_k=top_k)

    places = drawn(test, run.right)
    profiled = ask(sorted(test, key=draw)[:SAMPLE], _PROFILED)
    said = ask([row.example for row in rows])
    place_of = {row.example.id: place for place, row in enumerate(annotated)}
    lines = [json.dumps({"place": place_of[str(one.id)], **one.model_dump(mode="json")}) + "\n" for one in said]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("".join(lines), encoding="ascii")
    return Explained(
        places=places,
        shown=ask([test[place] for place in places]),
        words_found=sum(len(one.words or ()) for one in profiled),
        words_dropped=sum(one.dropped_words for one in profiled),
        top_k=_PROFILED,
        annotated=annotated,
        sample=rows,
        words=[one.words or () for one in said],
    )


def _temperature(spec: EvaluateSpec, test: Sequence[Example], run: Answered) -> Temperature | None:
    """The published student's temperature, fitted on the validation split, and what it does on the test split.

    None where its answers are not chosen among candidates, there are too few rows to fit it on, or it would change
    nothing beyond chance.
    """
    rows = read_examples(spec.validation) if spec.validation else []
    if not rows or spec.task.kind == "generation":
        return None
    engine = HFEngine.load(run.arm.model, device=spec.device)
    expected = [row.output for row in rows]
    before = _spread(engine, rows)
    value = fit_temperature(before, expected)
    if value is None:
        return None
    engine.adapter = engine.adapter.with_temperature(value)
    after = calibration(run.arm.recipe, [one.probability for one in answers(engine, test, lambda _: None)], run.right)
    plain = calibration(run.arm.recipe, run.probabilities, run.right)
    return Temperature(
        value=value,
        rows=sum(answer in row for row, answer in zip(before, expected, strict=True)),
        loss=likelihood(before, expected),
        loss_after=likelihood(_spread(engine, rows), expected),
        ece=plain.ece,
        ece_after=after.ece,
        ece_after_if_calibrated=after.ece_if_calibrated,
        brier=plain.brier,
        brier_after=after.brier,
    )


def _spread(engine: Engine, rows: Sequence[Example]) -> list[Mapping[str, float]]:
    """The probabilities of each row's candidates."""
    return [one.probabilities or {} for one in answers(engine, rows, lambda _: None)]


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


def _machine(device: str) -> Machine:
    chosen = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return Machine(
        cpu=cpu_name(),
        cores=cores(),
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if chosen.startswith("cuda") else "CPU",
        torch=torch.__version__,
        python=platform.python_version(),
    )
