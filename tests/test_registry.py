from __future__ import annotations

import pytest

from understudy.errors import UnknownName
from understudy.registry import Registry


def test_a_name_is_found_and_an_unknown_one_lists_the_choices() -> None:
    shapes: Registry[type] = Registry("shape")

    @shapes.register("circle")
    class Circle:
        pass

    assert shapes.get("circle") is Circle
    assert list(shapes) == ["circle"]
    assert "circle" in shapes
    with pytest.raises(UnknownName, match="unknown shape 'circel': choose from circle") as caught:
        shapes.get("circel", param="shape")
    assert caught.value.param == "shape"


def test_a_name_is_taken_once() -> None:
    shapes: Registry[int] = Registry("shape")
    shapes.register("circle")(1)
    with pytest.raises(ValueError, match="registered twice"):
        shapes.register("circle")
