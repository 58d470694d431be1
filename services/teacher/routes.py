"""The teacher's addresses: each route checks, waits its turn on the model thread, and answers."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from fastapi import APIRouter, Depends, Request

from services.teacher.engine import Engine
from services.teacher.readiness import Readiness
from understudy.batching import ModelThread
from understudy.schemas import (
    AttributionRequest,
    AttributionResponse,
    ModelInfo,
    PredictionRequest,
    PredictionResponse,
)

__all__ = ["State", "router"]

router = APIRouter(prefix="/v1")


class State(TypedDict):
    """What lives as long as the application."""

    engine: Engine
    thread: ModelThread
    readiness: Readiness


def _engine(request: Request) -> Engine:
    return request.state.engine  # type: ignore[no-any-return]


def _thread(request: Request) -> ModelThread:
    return request.state.thread  # type: ignore[no-any-return]


TheEngine = Annotated[Engine, Depends(_engine)]
TheThread = Annotated[ModelThread, Depends(_thread)]


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
