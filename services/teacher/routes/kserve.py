"""KServe's V1 protocol: `:predict` and `:explain` over `instances`.

The protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol. An instance is a text,
or an object with the fields of an example; options of the native addresses stand beside `instances` under their own
names, or in `parameters`. The answers are the native ones, as `predictions` and `explanations`. Errors have the native
shape too, `{"error": {"message", ...}}`: KServe's own servers answer with a string there, and KServe's client prints
what it finds. The protocol's `GET /v1/models` and `GET /v1/models/{name}` are the native addresses of the same name.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from services.teacher.routes.state import TheDesk
from understudy.bodies import as_request
from understudy.kserve import Instances, objects, options, said_of_instances
from understudy.schemas import AttributionRequest, PredictionRequest, PredictionResponse

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["KServe V1"])


@router.post("/models/{model:path}:predict", summary="The model's own answers, as KServe asks for them")
async def predict(model: str, body: Instances, desk: TheDesk) -> PredictionResponse:
    """Words are computed only where the option `explain` asks for them: `:explain` is the address for that."""
    fields = {"explain": False} | options(body) | {"model": model, "inputs": objects(body.instances)}
    with said_of_instances():
        return await desk.predict(as_request(PredictionRequest, fields, whole="parameters"))


@router.post("/models/{model:path}:explain", summary="Which words decided the answers, as KServe asks for them")
async def explain(model: str, body: Instances, desk: TheDesk) -> dict[str, Any]:
    fields = options(body) | {"model": model, "examples": objects(body.instances)}
    with said_of_instances():
        answer = await desk.attribute(as_request(AttributionRequest, fields, whole="parameters"))
    return {"explanations" if key == "results" else key: value for key, value in answer.model_dump(mode="json").items()}
