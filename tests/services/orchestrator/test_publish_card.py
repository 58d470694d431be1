"""What publishing writes on a student's card, which every engine reads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from services.orchestrator.phases import publish
from understudy.evaluation.details import Temperature
from understudy.models.load import load_adapter, load_card
from understudy.testing import tiny_classifier

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
