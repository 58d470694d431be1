"""KServe's V1 protocol: `:predict` and `:explain` over `instances`.

The protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol. An instance is a text,
or an object with the fields of an input. The answers are the native ones, in `predictions` and `explanations`; errors
have the native shape. The protocol's `GET /v1/models/{name}` is the native address of the same name.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import ConfigDict

from services.student.desk import Desk
from services.student.routes import native
from services.student.routes.state import ERRORS, FOREVER, Patience, TheDesk
from understudy.bodies import as_request
from understudy.kserve import Instances, objects, options, said_of_instances
from understudy.schemas import Answer, Prediction, PredictionInput, PredictionRequest, PredictionResponse, Reasons

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["KServe V1"], responses=ERRORS)


def _described(schema: dict[str, Any]) -> None:
    """Say of the document's schema what the checks further down would refuse."""
    fields = PredictionRequest.model_json_schema()["properties"]
    chosen = {name: field for name, field in fields.items() if name not in ("model", "inputs")}
    properties = schema["properties"]
    text = PredictionInput.model_json_schema()["properties"]["input"]
    properties["instances"]["items"] = {"anyOf": [text, PredictionInput.model_json_schema()]}
    properties["parameters"] = {"type": "object", "properties": chosen, "additionalProperties": False}
    schema["properties"] = {**properties, **chosen}
    schema["additionalProperties"] = False


class Inputs(Instances):
    """`instances` are texts or native inputs; options of a native request stand beside them, or in `parameters`."""

    model_config = ConfigDict(json_schema_extra=_described)


class Explanations(Answer):
    """A native answer under KServe's name for it."""

    model: str
    artifact: str | None
    reasons: Reasons | None
    explanations: tuple[Prediction, ...]


@router.post("/models/{model}:predict", summary="Labels, as KServe asks for them")
async def predict(model: str, body: Inputs, desk: TheDesk, patience: Patience = FOREVER) -> PredictionResponse:
    """Words are named only where the option `explain` asks for them: `:explain` is the address for that."""
    return await _answer(model, body, desk, patience, explain=False)


@router.post("/models/{model}:explain", summary="Labels with the words behind them, as KServe asks for them")
async def explain(model: str, body: Inputs, desk: TheDesk, patience: Patience = FOREVER) -> Explanations:
    found = await _answer(model, body, desk, patience, explain=True)
    return Explanations(**found.model_dump(exclude={"predictions"}), explanations=found.predictions)


async def _answer(model: str, body: Inputs, desk: Desk, patience: float, *, explain: bool) -> PredictionResponse:
    with said_of_instances():
        fields = {"explain": explain} | options(body) | {"model": model, "inputs": objects(body.instances)}
        return await native.response(desk, as_request(PredictionRequest, fields, whole="parameters"), patience)
