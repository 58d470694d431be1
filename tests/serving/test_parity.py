"""The gate lets through what answers like the reference, and everything that was tried is written down."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import InvalidRequest, ModelError, UnknownName
from understudy.evaluation.metrics import correctness
from understudy.schemas import Example, PredictionInput, TaskSpec
from understudy.serving import engines, export, parity, processor, published
from understudy.serving.engines import load_engine
from understudy.serving.export import ExportedEngine
from understudy.serving.hf import HFEngine
from understudy.serving.parity import publish_engines
from understudy.serving.published import EngineReport, EngineResult
from understudy.testing import SENTENCES, tiny_seq2seq

pytest.importorskip("ctranslate2")

LABELS = ("negative", "positive")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_seq2seq(tmp_path_factory.mktemp("parity") / "student")
    (folder / "task.json").write_text(TaskSpec(kind="classification", labels=LABELS).model_dump_json())
    return folder


@pytest.fixture(scope="module")
def examples(student: Path) -> list[Example]:
    """What the reference itself says, so that it is always right."""
    inputs = [PredictionInput(input=text) for text in SENTENCES]
    answers = HFEngine.load(student).predict(inputs, explain=False, top_k=1)
    return [
        Example(id=str(i), input=row.input, output=one.label)
        for i, (row, one) in enumerate(zip(inputs, answers, strict=True))
    ]


@pytest.fixture
def copied(student: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(student, tmp_path / "student"))


def contrary(monkeypatch: pytest.MonkeyPatch, wrong: int) -> None:
    """Engines that give the other label for the first rows of a batch."""
    real = ExportedEngine.predict

    def predict(self: ExportedEngine, inputs: Any, **asked: Any) -> Any:
        found = real(self, inputs, **asked)
        other = dict(zip(LABELS, reversed(LABELS), strict=True))
        return [
            one.model_copy(update={"label": other[one.label]}) if i < wrong and len(inputs) > 1 else one
            for i, one in enumerate(found)
        ]

    monkeypatch.setattr(ExportedEngine, "predict", predict)


def test_what_passes_is_published_with_its_figures(copied: Path, examples: list[Example]) -> None:
    told: list[EngineResult] = []
    report = publish_engines(copied, examples, ["ct2:float32", "ort:int8"], copied, correctness, tell=told.append)
    (one,) = report.results  # ONNX Runtime is for classifiers, and says nothing here
    assert (one.published, one.problem, one.agreement, one.accuracy) == (True, None, 1.0, 1.0)
    assert one.rows == len(examples)
    assert one.bytes == sum(p.stat().st_size for p in (copied / "engines" / "ct2-float32").iterdir())
    assert one.speedup is not None
    assert min(one.speedup, one.latency_ms or 0, one.reference_latency_ms or 0) > 0
    assert told == [one]
    assert published.read(copied) == report
    assert "100.0 % of 12 validation rows" in one.sentence


def test_what_disagrees_is_left_out_and_listed(
    copied: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    contrary(monkeypatch, wrong=1)
    (one,) = publish_engines(copied, examples, ["ct2:float32"], copied, correctness).results
    assert not one.published
    assert one.agreement == pytest.approx(11 / 12)
    assert "agrees on 91.7 % of the rows, and 99 % is the least" in (one.problem or "")
    assert not (copied / "engines" / "ct2-float32").exists()
    assert (copied / "engines.json").is_file()


def test_both_bounds_can_be_set(copied: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    contrary(monkeypatch, wrong=1)
    asked: dict[str, Any] = {"min_agreement": 0.9, "max_drop": 0.05}
    (one,) = publish_engines(copied, examples, ["ct2:float32"], copied, correctness, **asked).results
    assert "loses 8.33 points of accuracy, and 5 is the most" in (one.problem or "")
    (one,) = publish_engines(
        copied, examples, ["ct2:float32"], copied, correctness, **asked | {"max_drop": 0.1}
    ).results
    assert one.published


def test_an_export_that_fails_is_one_that_is_not_published(
    copied: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a defect of the exporter")

    from understudy.serving import ct2

    monkeypatch.setattr(ct2, "convert", broken)
    (one,) = publish_engines(copied, examples, ["ct2:int8"], copied, correctness).results
    assert (one.published, one.problem) == (False, "ZeroDivisionError: a defect of the exporter")


def test_no_rows_and_unknown_engines_are_refused(copied: Path, examples: list[Example]) -> None:
    with pytest.raises(InvalidRequest, match="validation split is empty"):
        publish_engines(copied, [], ["ct2:int8"], copied, correctness)
    with pytest.raises(UnknownName, match="ct2:int8"):
        publish_engines(copied, examples, ["tensorrt"], copied, correctness)


def test_a_stand_in_is_made_only_where_the_other_did_not_pass(
    copied: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "INSTEAD_OF", {"ct2:float32": "ct2:int8"})
    asked: dict[str, Any] = {"min_agreement": 0.0, "max_drop": 1.0}
    report = publish_engines(copied, examples, ["ct2:int8", "ct2:float32"], copied, correctness, **asked)
    assert [one.name for one in report.published] == ["ct2:int8"]
    contrary(monkeypatch, wrong=12)
    report = publish_engines(copied, examples, ["ct2:int8", "ct2:float32"], copied, correctness)
    assert [one.name for one in report.results] == ["ct2:int8", "ct2:float32"]


def test_more_rows_than_are_needed_are_not_asked(
    copied: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "MAX_ROWS", 5)
    assert publish_engines(copied, examples, ["ct2:float32"], copied, correctness).results[0].rows == 5


def said(folder: Path, **speedups: float) -> None:
    """An `engines.json` by hand; `__` stands for the colon."""
    results = tuple(
        EngineResult(name=name.replace("__", ":"), published=True, speedup=speedup)
        for name, speedup in speedups.items()
    )
    report = EngineReport(min_agreement=0.99, max_drop=0.005, threads=1, results=results)
    (folder / "engines.json").write_text(report.model_dump_json())


def test_auto_takes_the_fastest_that_is_faster_than_the_reference(copied: Path) -> None:
    for name in ("ct2:int8", "ct2:float32"):
        export.export(copied, name)
    for speedups, expected in (
        ({"ct2__int8": 2.0, "ct2__float32": 3.0}, "ct2:float32"),
        ({"ct2__int8": 2.0, "ct2__float32": 1.5}, "ct2:int8"),
        ({"ct2__int8": 0.9}, None),
        ({}, None),
    ):
        said(copied, **speedups)
        assert getattr(load_engine(copied, "cpu"), "engine", None) == expected
    (copied / "engines.json").unlink()
    assert type(load_engine(copied, "cpu")) is HFEngine


def test_auto_leaves_what_cannot_run_or_be_read_here_for_the_reference(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(copied, ct2__int8=2.0)
    assert type(load_engine(copied, "cpu")) is HFEngine  # it is listed, and its files are not there
    export.export(copied, "ct2:int8")
    assert isinstance(load_engine(copied, "cpu", "me"), ExportedEngine)
    monkeypatch.setattr(engines, "missing", lambda _: ("ctranslate2",))
    assert type(load_engine(copied, "cpu")) is HFEngine
    with pytest.raises(ModelError, match="needs ctranslate2, which is not installed here"):
        load_engine(copied, "cpu", engine="ct2")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"sse4_2", "avx"}, "ct2:float32"), ({"avx", "avx2"}, "ct2:int8"), (None, "ct2:int8")],
)
def test_auto_leaves_int8_where_the_processor_has_no_instructions_for_it(
    flags: set[str] | None, expected: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ct2:int8", "ct2:float32"):
        export.export(copied, name)
    said(copied, ct2__int8=3.0, ct2__float32=2.0)
    monkeypatch.setattr(processor, "features", lambda: None if flags is None else frozenset(flags))
    assert getattr(load_engine(copied, "cpu"), "engine", None) == expected
    named = load_engine(copied, "cpu", engine="ct2:int8")  # whoever names it gets it
    assert isinstance(named, ExportedEngine)


def test_auto_goes_on_to_the_next_engine_where_a_library_refuses_its_precision_here(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ctranslate2

    for name in ("ct2:int8", "ct2:float32"):
        export.export(copied, name)
    said(copied, ct2__int8=3.0, ct2__float32=2.0)
    real = ctranslate2.Translator

    def refusing(*given: Any, compute_type: str, **options: Any) -> Any:
        if compute_type == "int8":
            raise ValueError("Requested int8 compute type, but the target device or backend do not support it")
        return real(*given, compute_type=compute_type, **options)

    monkeypatch.setattr(ctranslate2, "Translator", refusing)
    assert getattr(load_engine(copied, "cpu"), "engine", None) == "ct2:float32"
    with pytest.raises(ModelError, match="Requested int8 compute type"):
        load_engine(copied, "cpu", engine="ct2:int8")


def test_auto_is_the_reference_on_an_accelerator(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said(copied, ct2__int8=3.0)
    asked: list[str] = []

    def load(folder: Path, device: str, name: str | None) -> str:
        del folder, name
        asked.append(device)
        return "the reference"

    monkeypatch.setattr(engines.HFEngine, "load", load)
    assert load_engine(copied, "cuda:0") == "the reference"
    monkeypatch.setattr(engines.torch.cuda, "is_available", lambda: True)
    assert load_engine(copied, "auto") == "the reference"
    assert asked == ["cuda:0", "auto"]


def test_an_engine_is_taken_by_its_name_or_with_its_precision(copied: Path) -> None:
    for name in ("ct2:int8", "ct2:float32"):
        export.export(copied, name)
    said(copied, ct2__int8=2.0, ct2__float32=3.0)
    assert type(load_engine(copied, "cpu", engine="hf")) is HFEngine
    for asked, expected in (("ct2", "ct2:float32"), ("ct2:int8", "ct2:int8")):
        engine = load_engine(copied, "cpu", "by-name", engine=asked)
        assert isinstance(engine, ExportedEngine)
        assert (engine.engine, engine.info().id) == (expected, "by-name")
    with pytest.raises(ModelError, match=r"without the engine ort: it has hf, ct2:float32, ct2:int8"):
        load_engine(copied, engine="ort")
    with pytest.raises(UnknownName, match="auto"):
        load_engine(copied, engine="onnx")


@pytest.mark.parametrize("content", ["{", json.dumps({"min_agreement": "much"}), "[]"])
def test_a_report_that_is_nonsense_is_a_model_error(content: str, copied: Path) -> None:
    (copied / "engines.json").write_text(content)
    with pytest.raises(ModelError, match=r"engines\.json cannot be read"):
        load_engine(copied, "cpu")


def test_engines_that_this_version_does_not_know_are_passed_over(copied: Path) -> None:
    said(copied, **{"../../elsewhere": 9.0, "gguf__int4": 8.0})
    assert type(load_engine(copied, "cpu")) is HFEngine
