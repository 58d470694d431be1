"""Shadow mode over real HTTP: copies are compared and counted, and no answered request ever notices."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from stand.listening import Listening

from services.student import models as models_module
from services.student.app import create_app
from services.student.models import Models
from services.student.settings import Settings
from services.student.shadow import Shadow
from understudy.evaluation.metrics import wilson
from understudy.schemas import Prediction, PredictionInput, PredictionRequest
from understudy.serving.engines import load_engine
from understudy.testing import tiny_classifier

TEXTS = tuple(f"film number {i}: {'a dull plot' if i % 3 else 'I love it'}" for i in range(30))


class Held:
    """A real engine whose passes wait until they are let through, or fail."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.go, self.began = threading.Event(), threading.Event()
        self.asked: list[str] = []
        self.failure: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def predict(self, inputs: Sequence[PredictionInput], **options: Any) -> list[Prediction]:
        self.began.set()
        assert self.go.wait(60)
        self.asked += [one.input for one in inputs]
        if self.failure is not None:
            raise self.failure
        return list(self._engine.predict(inputs, **options))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Held]:
    """`held(artifact)` is the engine of that artifact from now on; it passes nothing until it is told to."""
    chosen: dict[str, Held | None] = {}

    def load(folder: Path, device: str, name: str, **options: Any) -> Any:
        engine = load_engine(folder, device, name, **options)
        if name not in chosen:
            return engine
        waiting = Held(engine)
        made[name] = waiting
        return waiting

    made: dict[str, Held] = {}
    monkeypatch.setattr(models_module, "load_engine", load)

    def choose(artifact: str) -> Any:
        chosen[artifact] = None
        return SimpleNamespace(get=lambda: made[artifact])

    return choose


@contextmanager
def student(store: Any, **settings: Any) -> Iterator[httpx.Client]:
    chosen = {"artifacts": store.root, "device": "cpu", "refresh_seconds": 0.05, "max_models": 5} | settings
    with (
        Listening(create_app(Settings(**chosen), store)) as listening,
        httpx.Client(base_url=listening.until_ready().url, timeout=30) as http,
    ):
        yield http


def shadow(http: httpx.Client) -> dict[str, Any]:
    answer = http.get("/v1/models/production/shadow")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def until(http: httpx.Client, condition: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
    """What is said of the shadow once a condition holds of it."""
    end = time.monotonic() + seconds
    while not condition(found := shadow(http)):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


def ask(http: httpx.Client, *texts: str, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/predictions", json={"inputs": texts or ("a film",), "explain": False} | fields)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], dict[str, tuple[str, str]]]:
    """The folders of two models, and both one's labels of each text, which are not always the same."""
    base, inputs = tmp_path_factory.mktemp("two"), [PredictionInput(input=text) for text in TEXTS]
    folders: list[Path] = []
    said: list[list[str]] = []
    while not said or said[-1] == said[0]:
        folders.append(tiny_classifier(base / str(len(folders)), seed=1 + len(folders)))
        found = load_engine(folders[-1], "cpu").predict(inputs, explain=False, top_k=1)
        said.append([one.label for one in found])
    return [folders[0], folders[-1]], dict(zip(TEXTS, zip(said[0], said[-1], strict=True), strict=True))


@pytest.fixture
def differing(store: Any, two_models: Any) -> tuple[str, str, dict[str, tuple[str, str]]]:
    """The two models as what `production` and `shadow` name."""
    folders, truth = two_models
    serving, other = (store.publish("model", folder).id for folder in folders)
    store.set_alias("production", serving)
    store.set_alias("shadow", other)
    return serving, other, truth


def test_copies_are_compared_and_answer_nobody(store: Any, differing: Any) -> None:
    serving, other, truth = differing
    wanted = Counter(pair for pair in truth.values() if pair[0] != pair[1])
    with student(store, shadow_share=1.0) as http:
        until(http, lambda found: found["shadow"] == other)
        for text, (label, _) in truth.items():
            answer = ask(http, text)
            assert (answer["artifact"], answer["predictions"][0]["label"]) == (serving, label)
        found = until(http, lambda found: found["compared"] == len(TEXTS))
        metrics = http.get("/metrics").text
    assert (found["serving"], found["copied"], found["problem"]) == (serving, 1.0, None)
    assert {(pair["label"], pair["shadow_label"]): pair["count"] for pair in found["pairs"]} == wanted
    assert found["disagreed"] == wanted.total() > 0
    assert found["share"] == pytest.approx(wanted.total() / len(TEXTS))
    assert (found["low"], found["high"]) == pytest.approx(wilson(wanted.total(), len(TEXTS)))
    assert found["latency_ratio"] > 0
    pair = f'serving="{serving}",shadow="{other}"'
    assert f"understudy_shadow_compared_total{{{pair}}} {float(len(TEXTS))}" in metrics
    for (label, shadow_label), count in wanted.items():
        assert (
            f'understudy_shadow_disagreements_total{{label="{label}",serving="{serving}",shadow="{other}",'
            f'shadow_label="{shadow_label}"}} {float(count)}' in metrics
        )
    assert f'understudy_shadow_disagreement_share{{bound="low",{pair}}}' in metrics
    assert f"understudy_shadow_latency_ratio{{{pair}}}" in metrics


def test_no_text_is_kept_unless_the_operator_asks_for_it(store: Any, differing: Any) -> None:
    _, _, truth = differing
    split = [text for text, (label, other) in truth.items() if label != other]
    for kept in (0, 2):
        with student(store, shadow_share=1.0, shadow_samples=kept) as http:
            until(http, lambda found: found["shadow"] is not None)
            ask(http, *TEXTS)
            found = until(http, lambda found: found["compared"] == len(TEXTS))
            assert [one["input"] for one in found["samples"]] == (split[-kept:] if kept else [])
            for one in found["samples"]:
                assert (one["serving"], one["shadow"]) == truth[one["input"]]
                assert 0 < one["shadow_probability"] <= 1
            assert not any(text in http.get("/metrics").text for text in TEXTS)


def test_a_shadow_that_hangs_slows_no_request_and_what_it_cannot_take_is_counted(
    store: Any, differing: Any, held: Any
) -> None:
    serving, other, _ = differing
    engine = held(other)
    with student(store, shadow_share=1.0, shadow_queue=4) as http:
        # Its warm-up is done by the loader; the passes of copies are those that wait.
        until(http, lambda found: found["shadow"] == other)
        for _ in range(20):
            assert ask(http)["artifact"] == serving
        found = until(http, lambda found: found["dropped"] == 16)
        assert (found["compared"], found["failed"]) == (0, 0)
        engine.get().go.set()
        found = until(http, lambda found: found["compared"] == 4)
        assert found["dropped"] == 16
        assert (
            f'understudy_shadow_dropped_total{{serving="{serving}",shadow="{other}"}} 16.0' in http.get("/metrics").text
        )


def test_a_shadow_that_fails_fails_no_request(store: Any, differing: Any, held: Any) -> None:
    serving, other, _ = differing
    engine = held(other)
    with student(store, shadow_share=1.0) as http:
        until(http, lambda found: found["shadow"] == other)
        engine.get().failure = RuntimeError("the device is gone")
        engine.get().go.set()
        for _ in range(5):
            assert ask(http)["artifact"] == serving
        found = until(http, lambda found: found["failed"] == 5)
        assert found["problem"] == "RuntimeError: the device is gone"
        engine.get().failure = None
        ask(http)
        until(http, lambda found: found["compared"] == 1)


def test_what_waits_is_dropped_when_the_alias_moves(
    store: Any, differing: Any, held: Any, publish: Callable[..., str]
) -> None:
    _, other, _ = differing
    engine = held(other)
    with student(store, shadow_share=1.0) as http:
        until(http, lambda found: found["shadow"] == other)
        for _ in range(5):
            ask(http)
        assert engine.get().began.wait(60)  # the first copy runs, four wait
        three = publish("three", "production")
        until(http, lambda found: found["serving"] == three)
        engine.get().go.set()
        ask(http, "the first of another pair")
        found = until(http, lambda found: found["compared"] == 1)
        assert found["dropped"] == 0
        assert engine.get().asked == ["a film", "the first of another pair"]


def test_a_shadow_that_is_promoted_has_nobody_to_differ_from(store: Any, differing: Any) -> None:
    _, other, _ = differing
    with student(store, shadow_share=1.0) as http:
        until(http, lambda found: found["shadow"] == other)
        store.set_alias("production", other, how="promote")
        found = until(http, lambda found: found["serving"] == other)
        assert (found["shadow"], found["compared"]) == (None, 0)
        assert "name one model" in found["problem"]
        assert ask(http)["artifact"] == other


def test_a_shadow_alias_that_moves_to_what_cannot_be_served_ends_the_comparison(
    store: Any, differing: Any, publish: Callable[..., str]
) -> None:
    serving, other, _ = differing
    with student(store, shadow_share=1.0) as http:
        until(http, lambda found: found["shadow"] == other)
        two = publish("two")
        (Path(store.root) / two / "model.safetensors").write_bytes(b"")
        store.set_alias("shadow", two)
        found = until(http, lambda found: found["shadow"] is None)
        assert "differs from its manifest" in found["problem"]
        assert ask(http)["artifact"] == serving


def test_only_its_share_of_the_default_aliass_own_answers_is_copied(store: Any, differing: Any) -> None:
    serving, other, _ = differing
    store.set_alias("canary", other)
    with student(store, shadow_share=0.5) as http:
        until(http, lambda found: found["shadow"] == other)
        for name in (serving, "canary", other):
            ask(http, *TEXTS, model=name)
        for _ in range(100):
            ask(http)
        ask(http, model="production")
        quiet = until(http, lambda found: 20 <= found["compared"] <= 80)  # beyond that once in 10^9 runs
        assert quiet["failed"] == 0
    with student(store, shadow_share=1.0, canary_share=1.0) as http:
        until(http, lambda found: found["shadow"] == other)
        end = time.monotonic() + 60
        while ask(http)["artifact"] != other:
            assert time.monotonic() < end
        before = shadow(http)["compared"] + 1
        for _ in range(10):
            assert ask(http)["artifact"] == other
        assert shadow(http)["compared"] <= before


@pytest.mark.usefixtures("differing")
def test_an_alias_without_a_shadow_says_so(store: Any) -> None:
    with student(store) as http:
        found = shadow(http)
        assert (found["shadow"], found["copied"]) == (None, 0.0)
        assert "SHADOW_SHARE" in found["problem"]
        answer = http.get("/v1/models/shadow/shadow")
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")


@pytest.mark.anyio
@pytest.mark.usefixtures("differing")
async def test_a_copy_waits_while_a_request_does(store: Any) -> None:
    settings = Settings(artifacts=store.root, device="cpu", shadow_share=1.0, max_models=3, refresh_seconds=0.05)
    models, busy = Models(settings, store), threading.Event()
    models.start()
    one = Shadow(models, busy.is_set)
    try:
        async with asyncio.timeout(60):
            while one.now is None:
                await asyncio.sleep(0.01)
        engine = Held(one.now.shadow.engine)
        object.__setattr__(one.now.shadow, "engine", engine)
        engine.go.set()
        busy.set()
        inputs = [PredictionInput(input="a film")]
        given = one.now.serving.engine.predict(inputs, explain=False, top_k=1)
        request = PredictionRequest(inputs=("a film",), explain=False)
        one.copy(one.now.serving, request, inputs, given)
        await asyncio.sleep(0.2)
        assert not engine.began.is_set()
        busy.clear()
        async with asyncio.timeout(60):
            while not one.now.compared:
                await asyncio.sleep(0.01)
        busy.set()
        one.copy(one.now.serving, request, inputs, given)
        await asyncio.sleep(0)
    finally:
        await models.stop()
        await asyncio.wait_for(one.stop(), 60)  # what waits for a pause does not hold up the end
    assert engine.asked == ["a film"]
