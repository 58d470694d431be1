"""The drawings: of the right places, in the page's colours, the same each time."""

from __future__ import annotations

import re

import pytest

from understudy.evaluation.calibration import calibration
from understudy.evaluation.details import CurvePoint, Estimate
from understudy.evaluation.figures import learning_curve, reliability

HALF = Estimate(value=0.5, low=0.4, high=0.6)


def _points(*recipes: str) -> list[CurvePoint]:
    return [
        CurvePoint(
            recipe=recipe,
            size=size,
            seeds=3,
            accuracy=HALF,
            difference=None,
            candidate="random" not in recipe,
        )
        for recipe in recipes
        for size in (100, 1000)
    ]


def _drawings() -> list[str]:
    right = [True, False] * 50
    return [
        learning_curve(_points("finetune", "logit_kd", "rationale_gate", "rationale_gate+random_rationale")),
        reliability([calibration("teacher", [0.5] * 100, right), calibration("finetune", [0.5] * 100, right, seed=0)]),
    ]


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert _drawings() == _drawings()


@pytest.mark.parametrize("drawing", _drawings(), ids=["curve", "reliability"])
def test_a_drawing_has_no_colour_style_or_address_of_its_own(drawing: str) -> None:
    assert re.findall(r"#[0-9a-fA-F]{6}\b|<style|url\(|https?:|<script|<metadata", drawing) == []
    assert "var(--" in drawing
    assert drawing.startswith("<svg viewBox=")


def test_ids_of_two_drawings_do_not_meet() -> None:
    first, second = (set(re.findall(r' id="([^"]+)"', drawing)) for drawing in _drawings())
    assert first
    assert first.isdisjoint(second)
    for drawing in _drawings():
        assert set(re.findall(r'href="#([^"]+)"', drawing)) <= set(re.findall(r' id="([^"]+)"', drawing))


def test_text_is_text_and_what_came_from_data_is_escaped() -> None:
    assert ">their controls<" in _drawings()[0]
    drawn = reliability([calibration("<b>$x^2$</b>", [0.5] * 20, [True] * 20)])
    assert "<b>" not in drawn


def test_a_control_has_the_colour_of_its_recipe_and_no_name() -> None:
    with_control = learning_curve(_points("finetune", "rationale_gate", "rationale_gate+random_rationale"))
    assert "random_rationale" not in with_control
    assert "var(--series-2)" in with_control
    assert "var(--series-3)" not in with_control
