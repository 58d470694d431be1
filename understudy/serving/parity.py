"""The parity gate: an engine is published where it answers like the reference, on rows that neither was trained on.

Agreement is the share of rows with the same answer; accuracy is measured for both, because an engine may disagree where
the reference is wrong. Single requests are timed in turn with the reference's, so that a busy machine slows down both.
Knows no services and no stores.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from understudy.errors import InvalidRequest, UnderstudyError
from understudy.models.load import load_task
from understudy.schemas import Example, PredictionInput, TaskSpec
from understudy.serving.export import export, fits, open_exported
from understudy.serving.hf import HFEngine
from understudy.serving.published import (
    INSTEAD_OF,
    MAX_DROP,
    MIN_AGREEMENT,
    REPORT,
    EngineReport,
    EngineResult,
    folder_of,
    parse,
    size_of,
)

__all__ = ["MAX_ROWS", "Correct", "compare", "publish_engines"]

MAX_ROWS = 1000
"""Rows that are compared: with these, agreement of 99 % is known to about half a point."""

TIMED = 20

Correct = Callable[[TaskSpec, Sequence[str], Sequence[Example]], Sequence[bool]]
"""(task, answers, examples) -> whether each answer is right."""


def publish_engines(
    folder: Path,
    rows: Sequence[Example],
    names: Sequence[str],
    out: Path,
    correct: Correct,
    *,
    min_agreement: float = MIN_AGREEMENT,
    max_drop: float = MAX_DROP,
    tell: Callable[[EngineResult], None] = lambda _: None,
) -> EngineReport:
    """Export a model folder for each named engine that is for it, and keep in `out` what passes the gate.

    `out/engines.json`, written last, lists all that were tried. An engine whose export fails, in whatever way, is one
    that is not published. Raises InvalidRequest where there is no row to compare on, and UnknownName.
    """
    if not rows:
        raise InvalidRequest("there is no row to compare engines on: the validation split is empty", param="rows")
    for name in names:
        parse(name)
    reference = HFEngine.load(folder, device="cpu")
    results: list[EngineResult] = []
    for name in dict.fromkeys(names):
        passed = {one.name for one in results if one.published}
        if not fits(reference.adapter, name) or INSTEAD_OF.get(name) in passed:
            continue
        result = _tried(reference, folder, name, rows[:MAX_ROWS], out, correct, (min_agreement, max_drop))
        if not result.published:
            shutil.rmtree(folder_of(out, name), ignore_errors=True)
        tell(result)
        results.append(result)
    report = EngineReport(
        min_agreement=min_agreement, max_drop=max_drop, threads=torch.get_num_threads(), results=tuple(results)
    )
    out.mkdir(parents=True, exist_ok=True)
    half = out / f"{REPORT}.part"
    half.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    half.replace(out / REPORT)
    return report


def compare(
    reference: HFEngine, engine: HFEngine, rows: Sequence[Example], task: TaskSpec, correct: Correct
) -> EngineResult:
    """Both engines' answers to the rows, and single requests to each in turn. `published` is for the gate to say."""
    inputs = [PredictionInput(input=row.input, choices=row.choices) for row in rows]
    ours, theirs = (
        [one.label for one in model.predict(inputs, explain=False, top_k=1)] for model in (engine, reference)
    )
    pairs = [(_seconds(reference, one), _seconds(engine, one)) for one in (inputs * TIMED)[:TIMED]]
    return EngineResult(
        name=getattr(engine, "engine", "hf"),
        rows=len(rows),
        agreement=sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(rows),
        accuracy=sum(correct(task, ours, rows)) / len(rows),
        reference_accuracy=sum(correct(task, theirs, rows)) / len(rows),
        reference_latency_ms=1000 * statistics.median(slow for slow, _ in pairs),
        latency_ms=1000 * statistics.median(fast for _, fast in pairs),
        speedup=statistics.median(slow / fast for slow, fast in pairs),
    )


def _tried(
    reference: HFEngine,
    folder: Path,
    name: str,
    rows: Sequence[Example],
    out: Path,
    correct: Correct,
    gate: tuple[float, float],
) -> EngineResult:
    try:
        export(folder, name, out=out, adapter=reference.adapter)
        engine = open_exported(folder, name, out=out, reference=reference)
        found = compare(reference, engine, rows, load_task(folder) or reference.adapter.task, correct)
    except UnderstudyError as error:
        return EngineResult(name=name, problem=error.message)
    except Exception as error:  # exporters raise whatever they like, and the reference serves without them
        return EngineResult(name=name, problem=f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:300])
    problem = _failed(found, *gate)
    return found.model_copy(
        update={
            "published": problem is None,
            "problem": problem,
            "bytes": size_of(out, name),
            "reference_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        }
    )


def _failed(found: EngineResult, min_agreement: float, max_drop: float) -> str | None:
    assert found.agreement is not None
    assert found.accuracy is not None
    assert found.reference_accuracy is not None
    if found.agreement < min_agreement:
        return f"it agrees on {100 * found.agreement:.1f} % of the rows, and {100 * min_agreement:g} % is the least"
    drop = found.reference_accuracy - found.accuracy
    if drop > max_drop + 1e-12:  # of a difference of two shares
        return f"it loses {100 * drop:.2f} points of accuracy, and {100 * max_drop:g} is the most"
    return None


def _seconds(engine: HFEngine, row: PredictionInput) -> float:
    began = time.perf_counter()
    engine.predict([row], explain=False, top_k=1)
    return time.perf_counter() - began
