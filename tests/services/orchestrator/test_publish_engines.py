"""The engines that a student is published with: made in a child, kept for a second attempt, never the job's end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.orchestrator.phases import publish
from services.orchestrator.settings import Settings
from understudy.data.parquet import write_examples
from understudy.errors import LeaseLost
from understudy.schemas import EngineGate, Example, PredictionInput, TaskSpec
from understudy.serving.engines import load_engine
from understudy.testing import SENTENCES, FakeTeacher, tiny_seq2seq

pytest.importorskip("ctranslate2")
pytestmark = pytest.mark.usefixtures("fork_server")

LABELS = ("negative", "positive")


class Grip:
    """A grip that nobody takes away, until it is told so."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.lost = False

    def check(self) -> None:
        if self.lost:
            raise LeaseLost("another worker holds the item")

    def progress(self, completed: int, total: int | None = None) -> None: ...

    def event(self, event: Any) -> None:
        self.events.append(event)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    folder = tiny_seq2seq(tmp_path / "student")
    (folder / "task.json").write_text(TaskSpec(kind="classification", labels=LABELS).model_dump_json())
    return folder


@pytest.fixture
def work(tmp_path: Path, make_settings: Callable[[Path], Settings], make_bench: Any) -> Callable[..., Any]:
    """`work(folder, grip, item="one", **settings)` adds the engines of one publish item to a folder."""

    def do(folder: Path, grip: Grip, item: str = "one", gate: EngineGate | None = None, **changes: Any) -> Any:
        settings = make_settings(tmp_path).model_copy(update={"engines": ("ct2:int8",)} | changes)
        context = make_bench(settings, FakeTeacher()).context
        data = tmp_path / "data"
        data.mkdir(exist_ok=True)
        rows = [Example(id=str(i), input=text, output=LABELS[i % 2]) for i, text in enumerate(SENTENCES)]
        write_examples(data / "validation.parquet", rows)
        dataset = context.artifacts.publish("dataset", data).id
        spec = SimpleNamespace(engines=gate or EngineGate())
        job = SimpleNamespace(facts=SimpleNamespace(dataset=dataset), spec=spec)
        return publish._add_engines(context, job, SimpleNamespace(id=item), grip, folder)  # type: ignore[arg-type]

    return do


def test_a_student_is_published_with_its_engines_and_a_second_attempt_finds_the_first_ones_figures(
    work: Any, student: Path, tmp_path: Path
) -> None:
    copies = [Path(shutil.copytree(student, tmp_path / name)) for name in ("first", "second")]
    grip, again = Grip(), Grip()
    report = work(copies[0], grip, engine_min_agreement=0.0, engine_max_drop=1.0)
    assert [one.name for one in report.published] == ["ct2:int8"]
    (event,) = grip.events
    assert (event.level, event.data["name"]) == ("info", "ct2:int8")
    assert "% of 12 validation rows" in event.message
    engine = load_engine(copies[0], "cpu", engine="ct2")
    (answer,) = engine.predict([PredictionInput(input=SENTENCES[0])], explain=False, top_k=1)
    assert answer.label in LABELS
    assert work(copies[1], again, engine_min_agreement=0.0, engine_max_drop=1.0) == report
    assert again.events == []
    first, second = ({p.relative_to(c): p.read_bytes() for p in c.rglob("*") if p.is_file()} for c in copies)
    assert first == second


def test_a_job_may_ask_other_of_an_engine_than_the_installation(work: Any, student: Path) -> None:
    grip = Grip()
    report = work(student, grip, gate=EngineGate(max_drop=0.0), engine_min_agreement=0.0, engine_max_drop=1.0)
    assert (report.min_agreement, report.max_drop) == (0.0, 0.0)
    report = work(student, grip, item="two", gate=EngineGate(min_agreement=0.0), engine_min_agreement=1.0)
    assert (report.min_agreement, report.max_drop) == (0.0, 0.005)


def test_a_failed_export_is_told_and_the_reference_is_published(work: Any, student: Path) -> None:
    (student / "model.safetensors").write_bytes(b"no weights")
    grip = Grip()
    assert work(student, grip) is None
    (event,) = grip.events
    assert event.level == "warn"
    assert "No engine is published but the reference" in event.message
    assert not (student / "engines.json").exists()


def test_a_lost_lease_is_not_a_failed_export(work: Any, student: Path) -> None:
    grip = Grip()
    grip.lost = True
    with pytest.raises(LeaseLost):
        work(student, grip)


def test_nothing_is_started_where_no_engine_is_asked_for(work: Any, student: Path) -> None:
    grip = Grip()
    assert work(student, grip, engines=()) is None
    assert grip.events == []


def test_engines_are_listed_in_the_environment_and_unknown_ones_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_ENGINES", "ort:float32, ct2:int8")
    assert Settings().engines == ("ort:float32", "ct2:int8")
    monkeypatch.setenv("UNDERSTUDY_ENGINES", "tensorrt:int8")
    with pytest.raises(ValueError, match="no engine 'tensorrt:int8' to export for: choose from ct2:int8"):
        Settings()
