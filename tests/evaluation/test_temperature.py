"""The temperature is found where it is known, changes no answer, and makes test probabilities honest."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from understudy.data.parquet import write_examples
from understudy.evaluation.assemble import published
from understudy.evaluation.calibration import calibration
from understudy.evaluation.page import render_html
from understudy.evaluation.report import Report
from understudy.evaluation.run import EvaluateSpec, evaluate
from understudy.evaluation.temperature import FEWEST, fit_temperature, likelihood
from understudy.models.load import load_adapter
from understudy.schemas import Example

NAMES = ("a", "b", "c")
ROWS = 40


def drawn(count: int, temperature: float, seed: int = 0) -> tuple[list[dict[str, float]], list[str]]:
    """Probabilities of a model whose logits are `temperature` times too large, and answers drawn as they should be."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, len(NAMES))) * 2
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    said = np.exp(temperature * logits) / np.exp(temperature * logits).sum(1, keepdims=True)
    answers = [str(rng.choice(NAMES, p=row)) for row in honest]
    return [dict(zip(NAMES, map(float, row), strict=True)) for row in said], answers


def tempered(row: dict[str, float], temperature: float) -> dict[str, float]:
    weights = {name: value ** (1 / temperature) for name, value in row.items()}
    return {name: value / sum(weights.values()) for name, value in weights.items()}


@pytest.mark.parametrize("temperature", [0.4, 0.8, 2.5, 6.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    rows, answers = drawn(6000, temperature)
    found = fit_temperature(rows, answers)
    assert found == pytest.approx(temperature, rel=0.06)
    after = [tempered(row, found) for row in rows]
    assert likelihood(after, answers) <= likelihood(rows, answers)
    for nearby in (0.97, 1.03):  # it is the best there is
        other = [tempered(row, found * nearby) for row in rows]
        assert likelihood(after, answers) < likelihood(other, answers)


def test_the_error_falls_on_rows_that_nothing_was_fitted_to() -> None:
    found = fit_temperature(*drawn(2000, 4.0, seed=1))
    assert found is not None
    rows, answers = drawn(2000, 4.0, seed=2)
    errors = []
    for one in (1.0, found):
        said = [tempered(row, one) for row in rows]
        best = [max(row, key=row.__getitem__) for row in said]
        right = [given == answer for given, answer in zip(best, answers, strict=True)]
        errors.append(calibration("m", [row[name] for row, name in zip(said, best, strict=True)], right))
    assert errors[1].accuracy == errors[0].accuracy
    assert errors[0].ece > 0.1
    assert errors[1].ece < 0.03


def test_honest_probabilities_are_left_alone() -> None:
    """At 5 % one in twenty of such samples would be changed by chance."""
    found = [fit_temperature(*drawn(400, 1.0, seed)) for seed in range(60)]
    assert sum(one is not None for one in found) <= 8
    assert all(fit_temperature(*drawn(400, 2.5, seed)) is not None for seed in range(10))


def test_rows_without_an_error_do_not_make_it_sure_of_everything() -> None:
    """One right and one wrong row are imagined beside them: 61 of 62 are right at one confidence."""
    rows = [{"a": 0.85, "b": 0.15}] * 60
    found = fit_temperature(rows, ["a"] * 60)
    assert found == pytest.approx(math.log(0.85 / 0.15) / math.log(61 / 1))
    others = ["a"] * 98 + ["b"] * 2  # as it goes on where 98 % are right
    after = [tempered(rows[0], found)] * 100
    assert likelihood(after, others) < likelihood(rows[:1] * 100, others)
    wrong = fit_temperature(rows, ["b"] * 60)  # a coin at the worst
    assert wrong == pytest.approx(20)


@pytest.mark.parametrize(("count", "mistakes"), [(30, 2.1), (100, 2.0), (100, 2.88), (200, 0.055), (200, 8.0)])
def test_honest_rows_that_happen_to_have_few_errors_are_left_alone(count: int, mistakes: float) -> None:
    """The share of samples that are changed, summed up over how many errors there may be: 2.88 are the worst case."""
    sure, changed = 1 - mistakes / count, 0.0
    for errors in range(25):
        likely = math.comb(count, errors) * (1 - sure) ** errors * sure ** (count - errors)
        expected = ["b"] * errors + ["a"] * (count - errors)
        changed += likely * (fit_temperature([{"a": sure, "b": 1 - sure}] * count, expected) is not None)
    assert changed < 0.085


def test_the_imagined_rows_change_nothing_by_themselves() -> None:
    """A model that is as sure as it may be and never wrong: an imagined error would make it doubt without a reason."""
    rows = [{"a": 0.999, "b": 0.001}] * 39 + [{"a": 1.0}]
    assert fit_temperature(rows, ["a"] * 40) is None
    assert fit_temperature([{"a": 1.0}] * 40, ["a"] * 40) is None
    mixed = [{"a": 1.0}] * 40 + [{"a": 0.7, "b": 0.2, "c": 0.1}] * 40  # the median is of rows that leave a choice
    found = fit_temperature(mixed, ["a"] * 80)
    assert found is not None
    assert 1 / 20 < found < 1


def test_a_probability_of_nothing_and_answers_that_are_no_candidate() -> None:
    rows = [{"a": 1.0, "b": 0.0}] * 40
    found = fit_temperature([*rows, {"a": 1.0}], ["a"] * 20 + ["b"] * 20 + ["z"])
    assert found is not None
    assert math.isfinite(found)
    assert fit_temperature(rows, ["z"] * 40) is None
    assert fit_temperature(rows[: FEWEST - 1], ["a"] * (FEWEST - 1)) is None


def test_rows_may_have_candidates_of_their_own() -> None:
    rows, answers = drawn(3000, 2.0)
    mixed = [row if i % 2 else {f"{i}{name}": value for name, value in row.items()} for i, row in enumerate(rows)]
    named = [answer if i % 2 else f"{i}{answer}" for i, answer in enumerate(answers)]
    assert fit_temperature(mixed, named) == pytest.approx(fit_temperature(rows, answers))


def test_the_report_says_what_the_temperature_does(
    make_spec: Callable[..., EvaluateSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.evaluation.run._TIMED_CALLS", 3)
    spec = make_spec()
    texts = [f"film number {i}" for i in range(ROWS)]
    said = load_adapter(str(published(spec).model)).answers(texts, [None] * ROWS)  # always right, and never sure of it
    rows = [Example(id=str(i), input=texts[i], output=said[i].text) for i in range(ROWS)]
    write_examples(tmp_path / "validation.parquet", rows)
    plain = evaluate(spec, tmp_path / "plain", lambda *_: None)
    assert plain.temperature is None
    report = evaluate(
        spec.model_copy(update={"validation": tmp_path / "validation.parquet"}), tmp_path / "out", lambda *_: None
    )
    found = report.temperature
    assert found is not None
    assert found.rows == ROWS
    assert found.loss_after < found.loss
    assert found.ece == report.calibration[-1].ece
    assert found.ece_after != found.ece
    assert report.arms == plain.arms or [arm.accuracy for arm in report.arms] == [arm.accuracy for arm in plain.arms]
    assert Report.model_validate_json((tmp_path / "out" / "report.json").read_bytes()).temperature == found
    assert f"temperature of {found.value:.2f}" in render_html(report)
    assert "temperature of" not in render_html(plain)
