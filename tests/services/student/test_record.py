"""What the service counts of its answers, and whether they still look as they did when the model was published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from services.student.record import OTHER, Record
from understudy.drift import Profile
from understudy.schemas import Prediction, Word

pytestmark = pytest.mark.anyio

WORD = Word(text="dull", start=2, end=6, score=0.5)


def answer(label: str, found: int = 0, dropped: int = 0) -> Prediction:
    return Prediction(id=None, label=label, probability=0.5, words=(WORD,) * found, dropped_words=dropped)


def test_only_the_last_answers_are_compared() -> None:
    record = Record(("no", "yes"), Profile(rows=200, labels={"no": 100, "yes": 100}), size=100)
    for _ in range(100):
        record.add(answer("yes"), asked=0)
    ((name, before),) = record.drift()
    assert (name, before.verdict) == ("labels", "drifted")
    for i in range(100):
        record.add(answer(("no", "yes")[i % 2]), asked=0)
    ((_, after),) = record.drift()
    assert after.verdict == "stable"
    assert record.labels == {"yes": 150, "no": 50}


def test_words_that_are_not_in_the_input_drift_on_their_own() -> None:
    profile = Profile(rows=200, labels={"no": 100, "yes": 100}, words_found=950, words_dropped=50, top_k=5)
    record = Record(("no", "yes"), profile, size=500)
    for i in range(200):
        record.add(answer(("no", "yes")[i % 2], found=2, dropped=2), asked=5)
    verdicts = {name: shift.verdict for name, shift in record.drift()}
    assert verdicts == {"labels": "stable", "words": "drifted"}
    assert record.words == {"found": 400, "dropped": 400}


@pytest.mark.parametrize(
    ("top_k", "words", "names"),
    [(5, {"found": 200, "dropped": 50}, ["words"]), (None, {"found": 400, "dropped": 250}, [])],
)
def test_words_are_compared_where_as_many_were_asked_for(
    top_k: int | None, words: dict[str, int], names: list[str]
) -> None:
    """One unchanged student, whose first word is always right and whose fifth never is."""
    record = Record((), Profile(rows=200, words_found=800, words_dropped=200, top_k=top_k), size=1000)
    for _ in range(50):
        record.add(answer("a film", found=1), asked=1)
        record.add(answer("a film", found=4, dropped=1), asked=5)
        record.add(answer("a film", found=3, dropped=4), asked=20)
        record.add(answer("a film"), asked=0)
    assert record.words == words
    assert [name for name, _ in record.drift()] == names
    assert {shift.verdict for _, shift in record.drift()} <= {"stable"}
    assert (record.words_found, record.words_dropped) == (400, 250)


def test_answers_beyond_the_task_are_one_label() -> None:
    record = Record(("no", "yes"), Profile(rows=100, labels={"no": 50, "old": 50}), size=10)
    for text in ("a", "b", "no"):
        record.add(answer(text), asked=0)
    assert record.mix == {OTHER: 2, "no": 1}


def published(store: Any, folder: Path, copy: Path, **files: Any) -> str:
    shutil.copytree(folder, copy)
    for name, content in files.items():
        (copy / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    artifact = str(store.publish("model", copy).id)
    store.set_alias("production", artifact)
    return artifact


REPORT = {"confusion": {"labels": ["negative", "neutral", "positive"], "counts": [[40, 0, 0], [0, 40, 0], [0, 0, 40]]}}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"report": REPORT | {"profile": {"rows": 9, "labels": {"negative": 9}}}}, {"negative": 9}),
        ({"report": REPORT}, {"negative": 40, "neutral": 40, "positive": 40}),
        ({"report": {"summary": []}}, None),
        ({"report": "{broken"}, None),
        ({"report": "[1, 2]"}, None),
        ({}, None),
    ],
)
async def test_a_model_is_compared_with_what_was_published_beside_it(
    running: Any, store: Any, folders: dict[str, Path], tmp_path: Path, files: Any, expected: Any
) -> None:
    artifact = published(store, folders["one"], tmp_path / "copy", **files)
    async with running(store, drift_window=60) as student:
        await student.ask(*["a dull film"] * 70)
        found = (await student.http.get("/v1/models/production/drift")).json()
        assert (found["artifact"], found["answers"], found["window"]) == (artifact, 60, 60)
        assert (found["profile"] and found["profile"]["labels"]) == expected
        assert set(found["shifts"]) == ({"labels"} if expected else set())
        assert sum(found["labels"].values()) == 60
        assert (await student.http.get("/v1/models/nothing/drift")).status_code == 404


async def test_words_are_those_of_requests_for_as_many_as_the_profile_is_of(
    running: Any, store: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    profile = {"rows": 9, "words_found": 18, "top_k": 2}
    published(store, folders["one"], tmp_path / "copy", report=REPORT | {"profile": profile})
    async with running(store) as student:
        for options in ({"top_k": 2}, {"top_k": 3}, {"top_k": 2, "explain": False}):
            await student.ask("a dull film and a long one", "two hours of rain", **options)
        found = (await student.http.get("/v1/models/production/drift")).json()
    assert (found["answers"], found["words"], found["profile"]["top_k"]) == (6, {"found": 4, "dropped": 0}, 2)


async def test_the_metrics_say_what_was_answered(
    running: Any, store: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    artifact = published(store, folders["one"], tmp_path / "copy", report=REPORT)
    async with running(store) as student:
        answers = [(await student.ask("a dull film", "long " * 500, top_k=2)).json() for _ in range(30)]
        given = [one["label"] for body in answers for one in body["predictions"]]

        async def counted() -> bool:  # a batch is counted after its answers are out
            return "understudy_batch_examples_sum 60.0" in (await student.http.get("/metrics")).text

        await student.until(counted)
        text = (await student.http.get("/metrics")).text
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        for label in set(given):
            series = f'understudy_answers_total{{label="{label}",model="{artifact}"}}'
            assert float(lines[series]) == given.count(label)
        assert float(lines[f'understudy_named_words_total{{found="true",model="{artifact}"}}']) == 120
        assert float(lines[f'understudy_truncated_inputs_total{{model="{artifact}"}}']) == 30
        drift = (await student.http.get("/v1/models/production/drift")).json()["shifts"]["labels"]
        series = f'understudy_drift{{model="{artifact}",of="labels"}}'
        assert float(lines[series]) == pytest.approx(drift["excess"])
        assert "understudy_queue_examples 0.0" in text
        assert 'understudy_http_request_seconds_bucket{le="0.005",method="POST",route="/v1/predictions"}' in text
