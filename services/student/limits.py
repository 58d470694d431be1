"""What a request may cost: refused here before anything waits. Touches no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from services.student.settings import Settings
from understudy.errors import InvalidRequest, PayloadTooLarge
from understudy.schemas import PredictionInput, PredictionRequest

__all__ = ["check", "check_work"]


def check(request: PredictionRequest, inputs: Sequence[PredictionInput], settings: Settings) -> None:
    """Raise PayloadTooLarge or InvalidRequest, which name the field, for what can be seen without a model."""
    if len(inputs) > settings.max_inputs:
        raise PayloadTooLarge(f"{len(inputs)} inputs in one request: at most {settings.max_inputs}", param="inputs")
    # Every text is read in the template, and a batch that fails is tried in halves: with the labels again each time.
    shared = len(request.template or "") + sum(map(len, request.labels or ()))
    characters = len(inputs) * shared + sum(len(text) for one in inputs for text in (one.input, *(one.choices or ())))
    if characters > settings.max_request_chars:
        raise PayloadTooLarge(
            f"inputs have {characters} characters together, each with the template and its answers to choose from: at "
            f"most {settings.max_request_chars}. Send fewer inputs, or a shorter template and fewer answers",
            param="inputs",
        )
    for param, names in _candidates(request, inputs):
        if len(names) > settings.max_candidates:
            raise PayloadTooLarge(f"{param} has {len(names)} answers: at most {settings.max_candidates}", param=param)
        if len(set(names)) < len(names):
            raise InvalidRequest(f"{param} names the same answer twice", param=param)


def check_work(costs: Sequence[int], settings: Settings) -> None:
    """Raise PayloadTooLarge for a request whose tokens, counted once for every pass, are too many."""
    if sum(costs) > settings.max_request_work:
        raise PayloadTooLarge(
            f"inputs take about {sum(costs)} tokens with every pass of the model: at most {settings.max_request_work} "
            "in one request. Send fewer inputs, or fewer answers to choose from",
            param="inputs",
        )


def _candidates(request: PredictionRequest, inputs: Sequence[PredictionInput]) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "labels", request.labels or ()
    for i, one in enumerate(inputs):
        yield f"inputs[{i}].choices", one.choices or ()
