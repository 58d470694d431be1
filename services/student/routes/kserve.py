"""KServe's V1 protocol: `:predict` and `:explain` over `instances`.

The protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol. An instance is a text,
or an object with the fields of an input. The answers are the native ones, in `predictions` and `explanations`; errors
have the native shape. The protocol's `GET /v1/models/{name}` is the native address of the same name.
"""

from __future__ import annotations

from fastapi import APIRouter

from services.student.desk import Desk
from services.student.routes import native
from services.student.routes.state import ERRORS, Patience, TheDesk
from understudy.bodies import as_request
from understudy.kserve import Instances, objects, options, said_of_instances
from understudy.schemas import Answer, Prediction, PredictionRequest, PredictionResponse, Reasons

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["KServe V1"], responses=ERRORS)


class Explanations(Answer):
    """A native answer under KServe's name for it."""

    model: str
    artifact: str | None
    reasons: Reasons | None
    explanations: tuple[Prediction, ...]


@router.post("/models/{model}:predict", summary="Labels, as KServe asks for them")
async def predict(model: str, body: Instances, desk: TheDesk, patience: Patience = None) -> PredictionResponse:
    """Words are named only where the option `explain` asks for them: `:explain` is the address for that."""
    return await _answer(model, body, desk, patience, explain=False)


@router.post("/models/{model}:explain", summary="Labels with the words behind them, as KServe asks for them")
async def explain(model: str, body: Instances, desk: TheDesk, patience: Patience = None) -> Explanations:
    found = await _answer(model, body, desk, patience, explain=True)
    return Explanations(**found.model_dump(exclude={"predictions"}), explanations=found.predictions)


async def _answer(
    model: str, body: Instances, desk: Desk, patience: float | None, *, explain: bool
) -> PredictionResponse:
    with said_of_instances():
        fields = {"explain": explain} | options(body) | {"model": model, "inputs": objects(body.instances)}
        return await native.response(desk, as_request(PredictionRequest, fields, whole="parameters"), patience)
