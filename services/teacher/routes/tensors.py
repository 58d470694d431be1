"""What the tensors of the Open Inference Protocol mean here: an inference request as one of ours, an answer as tensors.

Inputs are BYTES tensors of UTF-8 texts, one row an example: `text` (N,) or (N, 1), and where they help `target` (the
output that is explained), `against`, and `choices` (N, M). Parameters are the options of the native requests; a list or
an object among them may be sent as JSON text, since the protocol's parameters are scalars. Outputs, (N,):

- `label` BYTES and `probability` FP32, the model's answer;
- `words` BYTES, the rationale as a JSON list of `{"text", "start", "end", "score"}`;
- `attributions` BYTES, the whole attribution as the native address gives it, in JSON.

`words` and `attributions` are there unless the request names other outputs only, or its parameter `explain` is false.
"""

from __future__ import annotations

import json
import re
from typing import Any

from understudy.bodies import as_request
from understudy.errors import InvalidRequest, UnknownName
from understudy.open_inference import InferRequest, Tensor, example_rows
from understudy.schemas import (
    AttributionOptions,
    AttributionRequest,
    AttributionResponse,
    PredictionRequest,
    PredictionResponse,
)

__all__ = [
    "INPUTS",
    "OUTPUTS",
    "attribution_request",
    "attribution_tensors",
    "explains",
    "prediction_request",
    "prediction_tensors",
    "said_of_tensors",
]

INPUTS = {"text": (-1,), "target": (-1,), "against": (-1,), "choices": (-1, -1)}
"""Name to shape, as metadata have it; all are BYTES, and all but `text` may be left out."""
OUTPUTS = {"label": "BYTES", "probability": "FP32", "words": "BYTES", "attributions": "BYTES"}
"""Name to datatype; all have shape (N,)."""

_ANSWER, _EXPLANATION = {"label", "probability"}, {"words", "attributions"}
_FIELDS = {"text": "input", "target": "output", "against": "against", "choices": "choices"}
_TENSORS = {field: tensor for tensor, field in _FIELDS.items()}
_PREDICTED = {"labels", "template"}  # the options of a prediction; the others are about explanations
_PARAMETERS = (*AttributionOptions.model_fields, "explain", "binary_data_output")
_JSON_TEXT = {"labels", "ignore", "settings"}
_PLACE = re.compile(r"\b(?:examples|inputs)\[(\d+)\](?:\.(input|output|against|choices)\b)?")


def explains(request: InferRequest) -> bool:
    """Does the request want words? Raises InvalidRequest where it names an unknown output or contradicts itself."""
    for output in request.outputs:
        if output.name not in OUTPUTS:
            raise UnknownName.among("output", output.name, OUTPUTS, param="outputs")
    named = {output.name for output in request.outputs}
    asked = request.parameters.get("explain", not named or bool(named & _EXPLANATION))
    if not isinstance(asked, bool):
        raise InvalidRequest("parameters: explain should be true or false", param="parameters.explain")
    if not asked and named & _EXPLANATION:
        raise InvalidRequest(
            "parameters: explain is false, but words or attributions are wanted", param="parameters.explain"
        )
    return asked


def attribution_request(model: str, request: InferRequest) -> AttributionRequest:
    """A request for explanations; its target is `gold` where a `target` is sent, unless it says otherwise."""
    options = _options(request)
    if "target" in request.inputs:
        options.setdefault("target", "gold")
    fields = options | {"model": model, "examples": example_rows(request, _FIELDS)}
    made = as_request(AttributionRequest, fields, whole="parameters")
    if not made.predict and any(output.name in _ANSWER for output in request.outputs):
        raise InvalidRequest("parameters: predict is false, but label or probability are wanted", param="outputs")
    return made


def prediction_request(model: str, request: InferRequest) -> PredictionRequest:
    """A request for the model's answers alone; what would shape an explanation has no place in it."""
    options = _options(request)
    needless = [f"parameter '{name}'" for name in options if name not in _PREDICTED]
    needless += [f"tensor '{name}'" for name in ("target", "against") if name in request.inputs]
    if needless:
        raise InvalidRequest(
            f"{needless[0]} is about an explanation, and none is wanted: name the output words or attributions",
            param="outputs",
        )
    fields = options | {"model": model, "inputs": example_rows(request, _FIELDS), "explain": False}
    return as_request(PredictionRequest, fields, whole="parameters")


def attribution_tensors(answer: AttributionResponse) -> list[Tensor]:
    """The outputs; the model's own answer is not among them where the request did not want it predicted."""
    labels = [one.prediction for one in answer.results if one.prediction is not None]
    probabilities = [one.probability for one in answer.results if one.probability is not None]
    words = [json.dumps([word.model_dump() for word in one.rationale], ensure_ascii=False) for one in answer.results]
    tensors = [
        Tensor.of_texts("label", labels),
        Tensor("probability", "FP32", (len(probabilities),), probabilities),
        Tensor.of_texts("words", words),
        Tensor.of_texts("attributions", [one.model_dump_json() for one in answer.results]),
    ]
    return [tensor for tensor in tensors if len(tensor.values) == len(answer.results)]


def prediction_tensors(answer: PredictionResponse) -> list[Tensor]:
    probabilities = [one.probability for one in answer.predictions]
    return [
        Tensor.of_texts("label", [one.label for one in answer.predictions]),
        Tensor("probability", "FP32", (len(probabilities),), probabilities),
    ]


def said_of_tensors(message: str) -> str:
    """A message about `examples[3].output` or `inputs[3].input`, as one about `target[3]` or `text[3]`."""
    return _PLACE.sub(lambda found: f"{_TENSORS[found[2] or 'input']}[{found[1]}]", message)


def _options(request: InferRequest) -> dict[str, Any]:
    for name in request.parameters:
        if name not in _PARAMETERS:
            raise UnknownName.among("parameter", ascii(name[:40])[1:-1], _PARAMETERS, param="parameters")
    return {name: _value(name, value) for name, value in request.parameters.items() if name != "explain"}


def _value(name: str, value: Any) -> Any:
    """A parameter's value; that of a list or an object may be sent as JSON text."""
    if name not in _JSON_TEXT or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"parameters: {name} is a text, and not JSON ({error})", param=f"parameters.{name}"
        ) from error
