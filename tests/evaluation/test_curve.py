"""Points of the learning curve, from answers that are written down here."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from understudy.evaluation.answered import Answered
from understudy.evaluation.curve import curve

Run = Callable[..., Answered]


def test_each_recipe_at_each_size_beside_finetune_of_that_size(answered: Run) -> None:
    runs = [
        answered("finetune", "1100000000", size=100),
        answered("logit_kd", "1111000000", size=100),
        answered("finetune", "1111100000"),
        answered("logit_kd", "1111110000"),
    ]
    points = curve(runs, rows=500)
    assert [(one.recipe, one.size, one.whole) for one in points] == [
        ("finetune", 100, False),
        ("logit_kd", 100, False),
        ("finetune", 500, True),
        ("logit_kd", 500, True),
    ]
    assert [one.accuracy.value for one in points] == pytest.approx([0.2, 0.4, 0.5, 0.6])
    assert [one.difference and one.difference.value for one in points] == [
        None,
        pytest.approx(0.2),
        None,
        pytest.approx(0.1),
    ]


def test_a_point_is_the_mean_of_its_seeds(answered: Run) -> None:
    runs = [answered("finetune", "1100", size=10, seed=0), answered("finetune", "1111", size=10, seed=1)]
    point = curve([*runs, answered("finetune", "1111")], rows=40)[0]
    assert (point.seeds, point.accuracy.value) == (2, 0.75)
    assert point.accuracy.low < 0.75 < point.accuracy.high


def test_without_smaller_sizes_there_is_no_curve(answered: Run) -> None:
    assert curve([answered("finetune", "11")], rows=40) == ()
    assert curve([answered("finetune", "11"), answered("finetune", "11", size=40)], rows=40) == ()
