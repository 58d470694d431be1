"""The student's own addresses: each route asks the desk, and answers with what it found."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import Field

from services.student.desk import Desk
from services.student.routes.state import ERRORS, FOREVER, Patience, TheDesk
from services.student.served import Served
from understudy.drift import Profile, Shift
from understudy.schemas import Answer, ModelInfo, PredictionRequest, PredictionResponse, Reasons

__all__ = ["response", "router"]

router = APIRouter(prefix="/v1", responses=ERRORS)


class ServedModel(ModelInfo):
    """A model in memory. `aliases` are those in use that name it.

    `created` and `owned_by` are what OpenAI's client looks for here, `name` and `ready` what KServe's does.
    """

    created: int
    owned_by: Literal["understudy"] = "understudy"
    name: str
    ready: Literal[True] = True
    aliases: tuple[str, ...]
    reasons: Reasons


class ServedModels(Answer):
    """`problems` says of an alias in use why it still serves an older model, or none."""

    object: Literal["list"] = "list"
    data: tuple[ServedModel, ...]
    problems: dict[str, str]


class Drift(Answer):
    """The last answers of a model beside those that it gave when it was published.

    `answers` is how many there are, `window` how many there can be. `labels` is their mix, `words` counts the
    words that were named as reasons by whether the input has them. `shifts` compares both with the profile, as far as
    it has them.
    """

    model: str
    artifact: str
    window: int
    answers: int
    labels: dict[str, int]
    words: dict[str, int]
    profile: Profile | None = Field(description="None where the artifact holds no report")
    shifts: dict[str, Shift]


@router.post(
    "/predictions",
    tags=["prediction"],
    summary="Labels, and the words that the model names as its reasons",
    response_model=PredictionResponse,
)
async def predictions(body: PredictionRequest, desk: TheDesk, patience: Patience = FOREVER) -> Response:
    found = await response(desk, body, patience)
    return Response(found.model_dump_json(), media_type="application/json")  # it was checked when it was made


@router.get("/models", tags=["models"], summary="The models in memory, and the aliases that cannot be served")
async def models(desk: TheDesk) -> ServedModels:
    data = tuple(_described(desk, model) for model in desk.models.loaded())
    return ServedModels(data=data, problems=desk.models.problems)


@router.get("/models/{model}", tags=["models"], summary="Facts about a model, which is loaded if it has to be")
async def model(model: str, desk: TheDesk) -> ServedModel:
    return _described(desk, await desk.model(model))


@router.get("/models/{model}/drift", tags=["models"], summary="Are a model's last answers still like its first ones?")
async def drift(model: str, desk: TheDesk) -> Drift:
    found = await desk.model(model)
    record = found.record
    return Drift(
        model=model,
        artifact=found.artifact,
        window=desk.settings.drift_window,
        answers=len(record.window),
        labels=record.mix,
        words=record.words,
        profile=record.profile,
        shifts=dict(record.drift()),
    )


async def response(desk: Desk, request: PredictionRequest, patience: float) -> PredictionResponse:
    """What the desk found, as the native address answers."""
    found = await desk.predict(request, patience)
    return PredictionResponse(
        model=found.name,
        artifact=found.model.artifact,
        reasons=found.model.reasons if request.explain else None,
        predictions=found.predictions,
    )


def _described(desk: Desk, model: Served) -> ServedModel:
    return ServedModel(
        **model.info.model_dump(),
        created=model.created,
        name=model.artifact,
        aliases=desk.models.aliases(model),
        reasons=model.reasons,
    )
