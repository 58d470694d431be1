"""The engine that the service's setting names is the one that answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from understudy.artifacts import ArtifactStore
from understudy.schemas import PredictionInput, TaskSpec
from understudy.serving.engines import load_engine
from understudy.serving.export import export
from understudy.serving.published import EngineReport, EngineResult
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


async def test_a_model_without_the_named_engine_is_not_served_and_says_why(
    running: Any, store: ArtifactStore, student: Path
) -> None:
    assert student.is_dir()
    async with running(store, engine="ort") as service:

        async def told() -> bool:
            answer = await service.ready()
            return answer.status_code == 503 and "without the engine ort: it has hf, ct2:int8" in answer.text

        await service.until(told)
