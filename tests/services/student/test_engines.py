"""The engine that the service's setting names is the one that answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import services.student.models
from services.student.models import Models
from services.student.settings import Settings
from understudy.artifacts import ArtifactStore
from understudy.errors import ModelError
from understudy.models.sizes import parameters
from understudy.schemas import PredictionInput, TaskSpec
from understudy.serving.engines import least_bytes, load_engine
from understudy.serving.export import ExportedEngine, export
from understudy.serving.published import EngineReport, EngineResult, size_of
from understudy.testing import SENTENCES, tiny_seq2seq

pytest.importorskip("ctranslate2")
pytestmark = pytest.mark.anyio

LABELS = ("negative", "positive")


@pytest.fixture
def student(tmp_path: Path, store: ArtifactStore) -> Path:
    """A model in the store, behind `production`, with an engine that was ten times as fast."""
    folder = tiny_seq2seq(tmp_path / "student")
    (folder / "task.json").write_text(TaskSpec(kind="classification", labels=LABELS).model_dump_json())
    export(folder, "ct2:int8")
    one = EngineResult(name="ct2:int8", published=True, speedup=10)
    report = EngineReport(min_agreement=0.99, max_drop=0.005, threads=1, results=(one,))
    (folder / "engines.json").write_text(report.model_dump_json())
    store.set_alias("production", store.publish("model", folder).id)
    return folder


@pytest.mark.parametrize(("setting", "expected"), [("auto", "ct2"), ("ct2", "ct2"), ("hf", "hf")])
async def test_the_named_engine_answers(
    setting: str, expected: str, running: Any, store: ArtifactStore, student: Path
) -> None:
    rows = [PredictionInput(input=text) for text in SENTENCES]
    truth = load_engine(student, "cpu", engine=expected).predict(rows, explain=True, top_k=2)
    async with running(store, engine=setting) as service:
        await service.until_ready()
        answer = await service.ask(*SENTENCES, explain=True, top_k=2)
    assert answer.status_code == 200, answer.text
    given = answer.json()["predictions"]
    assert [one["probability"] for one in given] == pytest.approx([one.probability for one in truth], rel=1e-9)
    assert [[word["text"] for word in one["words"]] for one in given] == [
        [word.text for word in one.words or ()] for one in truth
    ]


async def test_the_reference_beside_an_engine_counts_as_it_does_and_has_the_same_bound(
    store: ArtifactStore, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student's reasons are computed, so that both are in memory."""
    both = 4 * parameters(student) + size_of(student, "ct2:int8")
    loaded: list[object] = []

    def load(*args: Any, **options: Any) -> Any:
        loaded.append(args)
        return load_engine(*args, **options)

    monkeypatch.setattr(services.student.models, "load_engine", load)

    @asynccontextmanager
    async def models(**options: Any) -> AsyncIterator[Models]:
        one = Models(Settings(artifacts=store.root, device="cpu", engine="ct2", **options), store)
        try:
            yield one
        finally:
            await one.stop()

    async with models(max_model_bytes=both - 1) as kept:
        with pytest.raises(ModelError, match=f"takes {both:,} bytes"):
            await kept.get("production")
    assert not loaded
    async with models(max_model_bytes=both, max_padded_tokens=300) as kept:
        served = await kept.get("production")
        assert served.bytes == both
        assert isinstance(served.engine, ExportedEngine)
        assert served.engine.reference is not None
        assert served.engine.reference.adapter.max_padded_tokens == served.engine.adapter.max_padded_tokens == 300


@pytest.mark.parametrize(
    ("engine", "reasons", "expected"),
    [
        ("hf", "saliency", 400),
        ("ct2", "saliency", 500),
        ("ct2:int8", "gate", 100),
        ("auto", "gate", 100),
        ("ort", "gate", 0),
    ],
)
def test_the_least_that_a_model_takes_is_that_of_the_smallest_engine_that_may_run(
    tmp_path: Path, engine: str, reasons: str, expected: int
) -> None:
    one = EngineResult(name="ct2:int8", published=True, speedup=10)
    report = EngineReport(min_agreement=0.99, max_drop=0.005, threads=1, results=(one,))
    (tmp_path / "engines.json").write_text(report.model_dump_json())
    card = {"base_model": "base", "recipe": "finetune", "seed": 0, "max_tokens": 64, "reasons": reasons}
    (tmp_path / "card.json").write_text(json.dumps(card))
    (tmp_path / "engines" / "ct2-int8").mkdir(parents=True)
    (tmp_path / "engines" / "ct2-int8" / "model.bin").write_bytes(bytes(100))
    save_file({"weights": torch.zeros(100)}, tmp_path / "model.safetensors")
    assert least_bytes(tmp_path, engine) == expected


async def test_a_model_without_the_named_engine_is_not_served_and_says_why(
    running: Any, store: ArtifactStore, student: Path
) -> None:
    assert student.is_dir()
    async with running(store, engine="ort") as service:

        async def told() -> bool:
            answer = await service.ready()
            return answer.status_code == 503 and "without the engine ort: it has hf, ct2:int8" in answer.text

        await service.until(told)
