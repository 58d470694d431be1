"""What the tensors of the Open Inference Protocol mean here: an inference request as one of ours, an answer as tensors.

Inputs are BYTES tensors of UTF-8 texts, one row an example: `text` (N,) or (N, 1), and for tasks that choose `choices`
(N, M). Parameters are the options of a native prediction (`labels` may be JSON text, since the protocol's parameters
are scalars), `explain`, and Triton's `timeout` in microseconds. Outputs, (N,):

- `label` BYTES and `probability` FP32, the model's answer;
- `words` BYTES, the reasons as a JSON list of `{"text", "start", "end", "score"}`;
- `prediction` BYTES, the whole prediction as the native address gives it, in JSON.

Words are named unless the request names neither `words` nor `prediction`, or its parameter `explain` is false.
"""

from __future__ import annotations

import json
import re
from typing import Any

from understudy.bodies import as_request
from understudy.errors import InvalidRequest, UnknownName
from understudy.open_inference import InferRequest, Tensor, example_rows
from understudy.schemas import PredictionRequest, PredictionResponse

__all__ = ["INPUTS", "OUTPUTS", "PARAMETERS", "prediction_request", "prediction_tensors", "said_of_tensors", "seconds"]

INPUTS = {"text": (-1,), "choices": (-1, -1)}
"""Name to shape, as metadata have it; both are BYTES, and `choices` may be left out."""
OUTPUTS = {"label": "BYTES", "probability": "FP32", "words": "BYTES", "prediction": "BYTES"}
"""Name to datatype; all have shape (N,)."""

_EXPLANATION = {"words", "prediction"}
_FIELDS = {"text": "input", "choices": "choices"}
_OPTIONS = ("explain", "labels", "template", "top_k")
PARAMETERS = (*_OPTIONS, "timeout", "binary_data_output")
_PLACE = re.compile(r"\binputs\[(\d+)\](?:\.(input|choices)\b)?")


def prediction_request(model: str, request: InferRequest) -> PredictionRequest:
    """The request that the tensors stand for. Raises InvalidRequest, which names the tensor or parameter."""
    for output in request.outputs:
        if output.name not in OUTPUTS:
            raise UnknownName.among("output", output.name, OUTPUTS, param="outputs")
    for name in request.parameters:
        if name not in PARAMETERS:
            raise UnknownName.among("parameter", ascii(name[:40])[1:-1], PARAMETERS, param="parameters")
    chosen = {name: _value(name, request.parameters[name]) for name in _OPTIONS if name in request.parameters}
    named = {output.name for output in request.outputs}
    fields = {"explain": not named or bool(named & _EXPLANATION)} | chosen
    if fields["explain"] is False and "words" in named:
        raise InvalidRequest("parameters: explain is false, but words are wanted", param="parameters.explain")
    return as_request(
        PredictionRequest, fields | {"model": model, "inputs": example_rows(request, _FIELDS)}, whole="parameters"
    )


def seconds(request: InferRequest) -> float | None:
    """How long the caller waits, after the parameter `timeout`, which Triton's clients send in microseconds."""
    given = request.parameters.get("timeout")
    if given is None or given == 0:  # Triton's way to say that there is none
        return None
    if type(given) is not int or given < 0:
        raise InvalidRequest("parameters: timeout should be a whole number of microseconds", param="parameters.timeout")
    return given / 1e6


def prediction_tensors(answer: PredictionResponse) -> list[Tensor]:
    """The outputs; `words` is not among them where none were asked for."""
    found = answer.predictions
    tensors = [
        Tensor.of_texts("label", [one.label for one in found]),
        Tensor("probability", "FP32", (len(found),), [one.probability for one in found]),
        Tensor.of_texts("prediction", [one.model_dump_json() for one in found]),
    ]
    if answer.reasons is not None:
        words = [[word.model_dump() for word in one.words or ()] for one in found]
        tensors.append(Tensor.of_texts("words", [json.dumps(row, ensure_ascii=False) for row in words]))
    return tensors


def said_of_tensors(message: str) -> str:
    """A message about `inputs[3]` or `inputs[3].choices`, as one about `text[3]` or `choices[3]`."""
    return _PLACE.sub(lambda found: f"{'choices' if found[2] == 'choices' else 'text'}[{found[1]}]", message)


def _value(name: str, value: Any) -> Any:
    """A parameter's value; labels may be sent as JSON text."""
    if name != "labels" or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"parameters: labels is a text, and not JSON ({error})", param="labels") from error
