"""What is explained: the answer whose logit is differentiated, and the answer that it is compared with. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from understudy.errors import InvalidRequest
from understudy.schemas import AttributionExample, AttributionOptions

__all__ = ["compared", "explained"]


def explained(
    examples: Sequence[AttributionExample],
    options: AttributionOptions,
    closed: Sequence[Sequence[str]],
    answers: Sequence[str] | None,
    field: str = "examples",
) -> list[str] | None:
    """What is explained of each example; None where that is the model's answer and `answers` are not there yet.

    `closed` are each example's possible answers, empty where any answer is right. Raises InvalidRequest for an answer
    that is missing or not possible.
    """
    if options.target == "predicted":
        return None if answers is None else list(answers)
    if options.target == "gold":
        return [_gold(example, f"{field}[{i}].output", closed[i]) for i, example in enumerate(examples)]
    assert options.label is not None  # the wire model has seen to it
    return [_possible(options.label, "label", allowed) for allowed in closed]


def compared(
    examples: Sequence[AttributionExample],
    options: AttributionOptions,
    closed: Sequence[Sequence[str]],
    explained: Sequence[str] | None,
    field: str = "examples",
) -> list[str] | None:
    """What each explained answer is compared with, its own or the one for all; None where nothing is.

    Raises InvalidRequest where only some examples name one, where it is not possible, and where it is explained itself.
    """
    others = [example.against or options.against for example in examples]
    if not any(others):
        return None
    if options.rows:
        raise InvalidRequest(
            "rows explain the tokens of one answer, and against compares two: ask for one of them", param="rows"
        )
    found = []
    for i, other in enumerate(others):
        param = f"{field}[{i}].against" if examples[i].against or not options.against else "against"
        if other is None:
            raise InvalidRequest(f"{param} is missing: other examples of the request name one", param=param)
        found.append(_possible(other, param, closed[i]))
        if explained and explained[i] == other:
            raise InvalidRequest(
                f"{param} is '{other[:100]}', which is the answer that is explained in {field}[{i}]: name another",
                param=param,
            )
    return found


def _gold(example: AttributionExample, param: str, allowed: Sequence[str]) -> str:
    if example.output is None:
        raise InvalidRequest(f"{param} is missing: the target 'gold' explains it. Or ask for 'predicted'", param=param)
    return _possible(example.output, param, allowed)


def _possible(answer: str, param: str, allowed: Sequence[str]) -> str:
    if allowed and answer not in allowed:
        raise InvalidRequest(f"{param} is '{answer[:100]}': it must be one of {_listed(allowed)}", param=param)
    return answer


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name[:100]}'" for name in names[:most]) + more
