from __future__ import annotations

import pytest
import torch

from understudy.errors import InvalidRequest
from understudy.models.device import pick_device


def test_a_device_that_is_there_is_taken_as_it_was_named() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda:99", "toaster", "", "meta", *([] if torch.cuda.is_available() else ["cuda"])])
def test_one_that_is_not_there_is_refused_and_the_others_are_named(name: str) -> None:
    with pytest.raises(InvalidRequest, match="choose from auto, cpu") as caught:
        pick_device(name)
    assert caught.value.param == "device"
