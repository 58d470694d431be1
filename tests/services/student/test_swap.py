"""Promotes and rollbacks under real concurrent HTTP load: not one failed request, each answer of one whole model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from stand.listening import Listening

from services.student import models as models_module
from services.student.app import create_app
from services.student.settings import Settings
from understudy.schemas import PredictionInput
from understudy.serving.engines import load_engine
from understudy.serving.hf import HFEngine
from understudy.versions import Versions

TEXTS = ("The plot is thin.", "A dull film: two hours of rain.", "I love it")
CALLERS = 8


class Load:
    """Callers of several protocols who ask until they are told to stop, and remember all that they were answered."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: list[tuple[str, tuple[float, ...]]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def until_answered_by(self, artifact: str, seconds: float = 60) -> None:
        """Until all callers together have had so many answers of an artifact that each has had one, about."""
        end, before = time.monotonic() + seconds, len(self.answers)
        while sum(name == artifact for name, _ in self.answers[before:]) < 2 * CALLERS:
            assert time.monotonic() < end
            assert not self.failures, self.failures[:3]
            time.sleep(0.01)

    def _call(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while not self._stop.is_set():
                try:
                    self.answers.append(self._native(http) if number % 2 else self._kserve(http))
                except Exception as error:
                    self.failures.append(f"{type(error).__name__}: {error}")

    def _native(self, http: httpx.Client) -> tuple[str, tuple[float, ...]]:
        return self._read(http.post("/v1/predictions", json={"inputs": TEXTS, "explain": False}))

    def _kserve(self, http: httpx.Client) -> tuple[str, tuple[float, ...]]:
        return self._read(http.post("/v1/models/production:predict", json={"instances": TEXTS}))

    def _read(self, answer: httpx.Response) -> tuple[str, tuple[float, ...]]:
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return body["artifact"], tuple(one["probability"] for one in body["predictions"])


def problem(url: str) -> str:
    return str(httpx.get(f"{url}/readyz").json()["problems"].get("production", ""))


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_alias_moves_under_load_and_no_request_fails(
    store: Any, publish: Callable[..., str], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, broken = publish("one", "production"), publish("two"), publish("three")
    rows = [PredictionInput(input=text) for text in TEXTS]
    truth = {
        artifact: [p.probability for p in HFEngine.load(folders[name]).predict(rows, explain=False, top_k=1)]
        for artifact, name in ((one, "one"), (two, "two"))
    }
    warmed: dict[str, int] = {}

    def watched(folder: Path, device: str, name: str, **options: Any) -> Any:
        """What a model has answered before the service has it."""
        engine = load_engine(folder, device, name, **options)
        warmed[name] = asked.count(id(engine))
        return engine

    asked: list[int] = []
    predict = HFEngine.predict
    monkeypatch.setattr(
        HFEngine, "predict", lambda self, *args, **more: asked.append(id(self)) or predict(self, *args, **more)
    )
    monkeypatch.setattr(models_module, "load_engine", watched)
    versions = Versions(store)
    app = create_app(Settings(artifacts=store.root, device="cpu", refresh_seconds=0.05, retry_seconds=0.2), store)
    with Listening(app) as listening, Load(listening.until_ready().url) as load:
        load.until_answered_by(one)
        versions.promote("production", two, by="ada")
        load.until_answered_by(two)
        versions.rollback("production", by="ada")
        load.until_answered_by(one)

        # Published whole and damaged since: by hand, because a promote would refuse it.
        (Path(store.root) / broken / "model.safetensors").write_bytes(b"not what it was")
        store.set_alias("production", broken)
        until(lambda: "differs from its manifest" in problem(listening.url))
        load.until_answered_by(one)
        store.delete(broken)
        until(lambda: "no artifact" in problem(listening.url))
        load.until_answered_by(one)

        versions.promote("production", two, by="ada")
        load.until_answered_by(two)
        assert problem(listening.url) == ""
    assert load.failures == []
    assert {name for name, _ in load.answers} == {one, two}
    for artifact, probabilities in load.answers:
        assert probabilities == pytest.approx(truth[artifact], rel=1e-4)
    assert min(warmed[one], warmed[two]) >= 2  # with reasons and without, before its first request
