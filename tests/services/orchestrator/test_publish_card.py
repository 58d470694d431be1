"""What publishing writes beside a student: its card, which every engine reads, and what the report says of engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.orchestrator.phases import publish
from services.orchestrator.settings import Settings
from understudy.evaluation.details import Temperature
from understudy.evaluation.report import ArmRow, BaselineRow, Machine, Published, Report
from understudy.evaluation.spec import RowCounts
from understudy.models.load import load_adapter, load_card
from understudy.schemas import TaskSpec
from understudy.serving.published import EngineReport, EngineResult
from understudy.testing import LABELS, FakeTeacher, tiny_classifier

FIGURES: dict[str, Any] = {
    "rows": 100,
    "loss": 0.5,
    "loss_after": 0.4,
    "ece": 0.1,
    "ece_after": 0.02,
    "ece_after_if_calibrated": 0.02,
    "brier": 0.2,
    "brier_after": 0.19,
}


@pytest.fixture
def report() -> Report:
    """The least that a report of a plain job says."""
    return Report(
        job_id="ftjob-abc",
        created_at="2026-11-20T10:00:00+00:00",
        task=TaskSpec(kind="classification", labels=LABELS),
        rows=RowCounts(train=100, validation=600, test=50, rejected=0),
        arms=(
            ArmRow(
                recipe="finetune",
                candidate=True,
                accuracy=0.9,
                low=0.8,
                high=0.95,
                control_of=None,
                validation_accuracy=0.9,
                parameters=1000,
                size_mb=1.0,
                latency_ms=1.0,
                steps=10,
                seconds=1.0,
                seeds=(),
            ),
        ),
        teacher=None,
        baseline=BaselineRow(description="always 'negative'", accuracy=0.4),
        comparisons=(),
        rationale=None,
        published=Published(recipe="finetune", seed=0, artifact="model-1", why="finetune is published."),
        machine=Machine(cpu="Test CPU", cores=2, threads=1, device="CPU", torch="2.13.0", python="3.11.9"),
        caveats=(),
    )


def test_the_fitted_temperature_is_put_on_the_card_and_nothing_else_changes(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "student")
    before = load_card(folder)
    found = Temperature(value=1.3700000000000001, **FIGURES)
    publish._set_temperature(folder, SimpleNamespace(temperature=found))  # type: ignore[arg-type]
    assert load_adapter(str(folder), device="cpu").temperature == found.value
    after = load_card(folder)
    assert before is not None
    assert after == before.model_copy(update={"temperature": found.value})
    written = (folder / "card.json").read_bytes()
    publish._set_temperature(folder, SimpleNamespace(temperature=found))  # type: ignore[arg-type]
    assert (folder / "card.json").read_bytes() == written  # published twice, it is one artifact
    said = publish._calibrated(SimpleNamespace(temperature=found))  # type: ignore[arg-type]
    assert "temperature 1.37" in said
    assert "2.0 points (before: 10.0)" in said


def test_without_a_fit_the_card_stays_as_it_was(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "student")
    before = (folder / "card.json").read_bytes()
    publish._set_temperature(folder, SimpleNamespace(temperature=None))  # type: ignore[arg-type]
    assert (folder / "card.json").read_bytes() == before


def test_the_report_says_which_engines_failed_the_gate_and_why(
    tmp_path: Path, make_settings: Callable[[Path], Settings], make_bench: Any, report: Report
) -> None:
    context = make_bench(make_settings(tmp_path), FakeTeacher()).context
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "report.json").write_text(report.model_dump_json())
    failed = EngineResult(
        name="ort:int8",
        problem="it agrees on 98.2 % of the rows, and 99 % is the least",
        rows=600,
        agreement=0.982,
        accuracy=0.9,
        reference_accuracy=0.91,
    )
    passed = failed.model_copy(update={"name": "ort:int8-blocks", "published": True, "problem": None, "speedup": 1.5})
    engines = EngineReport(min_agreement=0.99, max_drop=0.005, threads=1, results=(failed, passed))
    job: Any = SimpleNamespace(id="ftjob-abc")
    folder, artifact = publish._with_engines(context, job, papers, report, engines, tmp_path / "whole")
    told = Report.model_validate_json((folder / "report.json").read_bytes())
    assert told == report.model_copy(update={"engines": engines})
    assert told.summary[-1].startswith("Engine ort:int8 is not published: it agrees on 98.2 % of the rows")
    assert "no: it agrees on 98.2 % of the rows, and 99 % is the least" in (folder / "report.html").read_text()
    assert artifact is not None
    assert (context.artifacts.folder(artifact) / "report.json").read_bytes() == (folder / "report.json").read_bytes()
    again = publish._with_engines(context, job, papers, report, engines, tmp_path / "whole")
    assert again == (folder, artifact)
    assert publish._with_engines(context, job, papers, report, None, tmp_path / "none") == (papers, None)
