"""Which device a model goes to: what a user named, checked before anything is loaded onto it."""

from __future__ import annotations

import torch

from understudy.errors import InvalidRequest

__all__ = ["pick_device"]


def pick_device(name: str) -> str:
    """The device that a name means, `auto` cuda where there is one. Raises InvalidRequest for one that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).tolist()
    except (AssertionError, RuntimeError, NotImplementedError) as error:  # torch says it in all of these ways
        count = torch.cuda.device_count()
        there = ", ".join(["auto", "cpu", *(f"cuda:{i}" for i in range(count))])
        raise InvalidRequest(
            f"there is no device '{name[:50]}' on this machine: choose from {there}", param="device"
        ) from error
    return name
