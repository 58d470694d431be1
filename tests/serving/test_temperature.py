"""A card's temperature is every engine's: probabilities change as it says, answers and words never."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import ModelError
from understudy.models.load import load_adapter
from understudy.schemas import Prediction, PredictionInput, TaskSpec
from understudy.serving.export import export, open_exported
from understudy.serving.hf import HFEngine
from understudy.testing import SENTENCES, tiny_classifier, tiny_seq2seq

THREE = TaskSpec(kind="classification", labels=("negative", "positive", "not at all"))


def amended(folder: Path, task: TaskSpec | None = None, **card: Any) -> Path:
    if task is not None:
        (folder / "task.json").write_text(task.model_dump_json())
    said = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(said | card))
    return folder


def same_but_tempered(plain: list[Prediction], warm: list[Prediction], temperature: float, rel: float = 1e-6) -> None:
    for one, other in zip(plain, warm, strict=True):
        assert other.label == one.label
        assert other.words == one.words
        assert one.probabilities is not None
        assert other.probabilities is not None
        weights = {name: value ** (1 / temperature) for name, value in one.probabilities.items()}
        wanted = {name: value / math.fsum(weights.values()) for name, value in weights.items()}
        assert other.probabilities == pytest.approx(wanted, rel=rel)
        assert other.probability == other.probabilities[other.label]
        assert math.fsum(other.probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize("temperature", [0.3, 4.0])
@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize(
    "name", ["gate", "mean", "hub", "written", "rationale_then_label", "gated", "choice", "decoder"]
)
def test_the_reference_divides_by_it(
    engine: Callable[[str], HFEngine], name: str, explain: bool, temperature: float
) -> None:
    plain = engine(name)
    warm = HFEngine(plain.name, plain.adapter.with_temperature(temperature), plain.card)
    choices = ("yes", "no", "it is not known") if plain.adapter.task.kind == "choice" else None
    rows = [PredictionInput(input=text, choices=choices) for text in SENTENCES[:4]]
    labels = None if plain.adapter.task.labels or choices else ("negative", "positive")
    asked: dict[str, Any] = {"explain": explain, "top_k": 2, "labels": labels}
    same_but_tempered(plain.predict(rows, **asked), warm.predict(rows, **asked), temperature)


@pytest.mark.parametrize(("kind", "name"), [("gate", "ort:float32"), ("closed", "ct2:float32"), ("closed", "ct2:int8")])
def test_an_exported_engine_divides_by_it(tmp_path: Path, kind: str, name: str) -> None:
    pytest.importorskip("onnxscript" if kind == "gate" else "ctranslate2")
    made = tiny_classifier(tmp_path / "m", pooling="gate") if kind == "gate" else tiny_seq2seq(tmp_path / "m")
    folder = amended(made, None if kind == "gate" else THREE)
    export(folder, name)
    rows = [PredictionInput(input=text) for text in SENTENCES[:4]]
    before = open_exported(folder, name).predict(rows, explain=False, top_k=1)
    for temperature in (0.5, 5.0):
        warm = open_exported(amended(folder, temperature=temperature), name)
        same_but_tempered(before, warm.predict(rows, explain=False, top_k=1), temperature, rel=1e-5)


def test_a_card_is_read_and_answers_of_another_temperature_are_not_shared(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "m")
    plain = HFEngine.load(folder, "cpu")
    rows = [PredictionInput(input=text) for text in SENTENCES[:3]]
    before = plain.predict(rows, explain=True, top_k=2)
    warm = HFEngine.load(amended(folder, temperature=3.0), "cpu")
    same_but_tempered(before, warm.predict(rows, explain=True, top_k=2), 3.0)
    assert warm.fingerprint != plain.fingerprint
    assert load_adapter(str(folder)).with_template("Read: {input}").temperature == 3.0
    amended(folder, temperature=1.0)
    assert HFEngine.load(folder, "cpu").fingerprint == plain.fingerprint


@pytest.mark.parametrize("temperature", [0, -1, "NaN", "Infinity"])
def test_a_temperature_that_is_none_is_refused(tmp_path: Path, temperature: Any) -> None:
    folder = amended(tiny_classifier(tmp_path / "m"), temperature=temperature)
    with pytest.raises(ModelError, match=r"card\.json cannot be read"):
        HFEngine.load(folder, "cpu")


def test_a_share_that_a_high_temperature_makes_large_is_computed_and_not_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ct2 = pytest.importorskip("understudy.serving.ct2")
    bounds: list[float] = []
    monkeypatch.setattr(ct2._Row, "open", lambda self: bounds.append(self._negligible) or [])
    folder = amended(tiny_seq2seq(tmp_path / "m"), THREE)
    export(folder, "ct2:float32")
    for temperature, wanted in ((0.5, ct2.NEGLIGIBLE), (4.0, 4 * ct2.NEGLIGIBLE)):
        bounds.clear()
        open_exported(amended(folder, temperature=temperature), "ct2:float32")
        assert set(bounds) == {wanted}
