"""The student's addresses: each route checks, waits its turn on the model thread, and answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypedDict

from fastapi import APIRouter, Depends, Request

from services.student.engine import Models
from services.student.settings import Settings
from understudy.batching import ModelThread
from understudy.errors import InvalidRequest, PayloadTooLarge
from understudy.schemas import Answer, ModelInfo, PredictionInput, PredictionRequest, PredictionResponse
from understudy.serving.base import Reasons
from understudy.serving.hf import HFEngine

__all__ = ["State", "router"]

router = APIRouter(prefix="/v1")


class State(TypedDict):
    """What lives as long as the application."""

    models: Models
    thread: ModelThread


class ServedModel(ModelInfo):
    """A model in memory. `aliases` are those in use that name it."""

    aliases: tuple[str, ...]
    reasons: Reasons


class ServedModels(Answer):
    """`problems` says of an alias in use why it still serves an older model, or none."""

    object: Literal["list"] = "list"
    data: tuple[ServedModel, ...]
    problems: dict[str, str]


def _models(request: Request) -> Models:
    return request.state.models  # type: ignore[no-any-return]


def _thread(request: Request) -> ModelThread:
    return request.state.thread  # type: ignore[no-any-return]


TheModels = Annotated[Models, Depends(_models)]
TheThread = Annotated[ModelThread, Depends(_thread)]


@router.post("/predictions", tags=["prediction"], summary="Labels, and the words that the model names as its reasons")
async def predictions(body: PredictionRequest, models: TheModels, thread: TheThread) -> PredictionResponse:
    inputs = [PredictionInput(input=one) if isinstance(one, str) else one for one in body.inputs]
    check(body, inputs, models.settings)
    name = models.settings.alias if body.model is None else body.model
    engine = await models.engine(name)
    found = await thread.run(
        engine.predict, inputs, explain=body.explain, top_k=body.top_k, labels=body.labels, template=body.template
    )
    return PredictionResponse(
        model=name,
        artifact=engine.name,
        reasons=engine.reasons if body.explain else None,
        predictions=tuple(found),
    )


@router.get("/models", tags=["models"], summary="The models in memory, and the aliases that cannot be served")
async def models(models: TheModels) -> ServedModels:
    return ServedModels(data=tuple(_described(models, engine) for engine in models.loaded()), problems=models.problems)


@router.get("/models/{model}", tags=["models"], summary="Facts about a model, which is loaded if it has to be")
async def model(model: str, models: TheModels) -> ServedModel:
    return _described(models, await models.engine(model))


def check(request: PredictionRequest, inputs: list[PredictionInput], settings: Settings) -> None:
    """Refuse what needs no model to be refused, before it waits for one."""
    if len(inputs) > settings.max_inputs:
        raise PayloadTooLarge(f"{len(inputs)} inputs in one request: at most {settings.max_inputs}", param="inputs")
    characters = sum(len(one.input) for one in inputs)
    if characters > settings.max_request_chars:
        raise PayloadTooLarge(
            f"inputs have {characters} characters together: at most {settings.max_request_chars}", param="inputs"
        )
    for param, names in _candidates(request, inputs):
        if len(names) > settings.max_candidates:
            raise PayloadTooLarge(f"{param} has {len(names)} answers: at most {settings.max_candidates}", param=param)
        if len(set(names)) < len(names):
            raise InvalidRequest(f"{param} names the same answer twice", param=param)


def _candidates(request: PredictionRequest, inputs: list[PredictionInput]) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "labels", request.labels or ()
    for i, one in enumerate(inputs):
        yield f"inputs[{i}].choices", one.choices or ()


def _described(models: Models, engine: HFEngine) -> ServedModel:
    return ServedModel(**engine.info().model_dump(), aliases=models.aliases(engine), reasons=engine.reasons)
