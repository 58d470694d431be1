"""What is explained: the answer whose logit is differentiated. Any method can explain any target. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from understudy.errors import InvalidRequest
from understudy.registry import Registry
from understudy.schemas import AttributionExample

__all__ = ["TARGETS", "Target"]

Target = Callable[[Sequence[AttributionExample], Sequence[str], Sequence[Sequence[str]]], list[str]]
"""Examples, the model's answers, each example's closed set (empty where any answer is right) -> what is explained."""

TARGETS: Registry[Target] = Registry("target")


@TARGETS.register("gold")
def _gold(examples: Sequence[AttributionExample], _: Sequence[str], closed: Sequence[Sequence[str]]) -> list[str]:
    """The example's own output. Raises InvalidRequest where it is missing or no possible answer."""
    return [_output(i, example, allowed) for i, (example, allowed) in enumerate(zip(examples, closed, strict=True))]


@TARGETS.register("predicted")
def _predicted(_: Sequence[AttributionExample], answers: Sequence[str], __: Sequence[Sequence[str]]) -> list[str]:
    """What the model itself answers."""
    return list(answers)


def _output(i: int, example: AttributionExample, allowed: Sequence[str]) -> str:
    param = f"examples[{i}].output"
    if example.output is None:
        raise InvalidRequest(f"{param} is missing: the target 'gold' explains it. Or ask for 'predicted'", param=param)
    if allowed and example.output not in allowed:
        raise InvalidRequest(f"{param} is '{example.output[:100]}': it must be one of {_listed(allowed)}", param=param)
    return example.output


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name[:100]}'" for name in names[:most]) + more
