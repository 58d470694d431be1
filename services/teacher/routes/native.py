"""The teacher's addresses: each route asks the desk."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from services.teacher.routes.state import TheDesk
from understudy.schemas import (
    AttributionRequest,
    AttributionResponse,
    ModelInfo,
    PredictionRequest,
    PredictionResponse,
)

__all__ = ["router"]

router = APIRouter(prefix="/v1")


@router.post("/attributions", tags=["attribution"], summary="Which words of each text decided the answer")
async def attributions(body: AttributionRequest, desk: TheDesk) -> AttributionResponse:
    return await desk.attribute(body)


@router.post("/predictions", tags=["prediction"], summary="The model's own answers")
async def predictions(body: PredictionRequest, desk: TheDesk) -> PredictionResponse:
    return await desk.predict(body)


@router.get("/models", tags=["models"], summary="The models in memory; others are loaded when they are named")
async def models(desk: TheDesk) -> dict[str, Any]:
    return {"object": "list", "data": [model.model_dump(mode="json") for model in desk.loaded()]}


@router.get("/models/{model:path}", tags=["models"], summary="Facts about a model, which is loaded if it has to be")
async def model(model: str, desk: TheDesk) -> ModelInfo:
    return await desk.info(model)
