"""What a request is taken to cost."""

from __future__ import annotations

from typing import Any

import pytest

from services.teacher.limits import passes
from understudy.attribution.methods import make_method
from understudy.schemas import AttributionOptions


@pytest.mark.parametrize(
    ("options", "contrast", "cost"),
    [
        ({}, False, 1),
        ({}, True, 2),
        ({"method": "integrated_gradients", "settings": {"n_steps": 30}}, False, 30),
        ({"method": "integrated_gradients", "settings": {"n_steps": 30}}, True, 60),
        ({"method": "smooth_grad", "settings": {"n_samples": 7}}, False, 7),
        ({"method": "occlusion"}, False, 4),
        ({"faithfulness": True}, False, 13),
    ],
)
def test_every_option_that_multiplies_the_work_is_counted(options: dict[str, Any], contrast: bool, cost: int) -> None:
    asked = AttributionOptions(**options)
    method = make_method(asked.method, asked.settings)
    assert passes(asked, method, contrast, "four words of text") == cost
