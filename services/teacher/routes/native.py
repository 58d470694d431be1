"""The teacher's addresses: each route checks, waits its turn on the model thread, and answers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from services.teacher.routes.state import TheEngine, TheThread
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
async def attributions(body: AttributionRequest, engine: TheEngine, thread: TheThread) -> AttributionResponse:
    engine.check(body)
    return await thread.run(engine.attribute, body)


@router.post("/predictions", tags=["prediction"], summary="The model's own answers")
async def predictions(body: PredictionRequest, engine: TheEngine, thread: TheThread) -> PredictionResponse:
    engine.check(body)
    return await thread.run(engine.predict, body)


@router.get("/models", tags=["models"], summary="The models in memory; others are loaded when they are named")
async def models(engine: TheEngine) -> dict[str, Any]:
    return {"object": "list", "data": [model.model_dump(mode="json") for model in engine.loaded()]}


@router.get("/models/{model:path}", tags=["models"], summary="Facts about a model, which is loaded if it has to be")
async def model(model: str, engine: TheEngine, thread: TheThread) -> ModelInfo:
    return await thread.run(engine.info, model)
