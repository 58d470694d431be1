"""The student's own addresses: each route asks the desk, and answers with what it found."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import Field

from services.student.desk import Desk
from services.student.routes.state import ERRORS, FOREVER, Patience, TheDesk
from services.student.served import Served
from understudy.drift import Profile, Shift
from understudy.errors import ModelNotFound
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
    words that were named as reasons by whether the input has them, in answers to requests for as many words (`top_k`)
    as the profile is of. `shifts` compares both with the profile, as far as it has them.
    """

    model: str
    artifact: str
    window: int
    answers: int
    labels: dict[str, int]
    words: dict[str, int]
    profile: Profile | None = Field(description="None where the artifact holds no report")
    shifts: dict[str, Shift]


class LabelPair(Answer):
    """So many inputs got `label` from the serving model and `shadow_label` from the shadow."""

    label: str
    shadow_label: str
    count: int


class Disagreement(Answer):
    """An input that the two answered differently, cut to 2,000 characters."""

    input: str
    serving: str
    serving_probability: float
    shadow: str
    shadow_probability: float


class Shadowed(Answer):
    """How often the shadow differs from the model that serves, since both are what the aliases name.

    `share` of the `compared` inputs got another label, between `low` and `high` with 95 % confidence (Wilson); these
    are None before there is one. `dropped` copies found the queue full or came too late, `failed` could not be
    answered. `latency_ratio` is the seconds an input takes in a pass of the shadow, over those of the serving model.
    """

    alias: str
    serving: str | None
    shadow: str | None = Field(description="None where nothing is compared")
    copied: float = Field(description="The share of requests that are copied, as it was set")
    compared: int = 0
    disagreed: int = 0
    share: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: tuple[LabelPair, ...] = ()
    dropped: int = 0
    failed: int = 0
    latency_ratio: float | None = None
    samples: tuple[Disagreement, ...] = Field(default=(), description="Empty unless the operator keeps them")
    problem: str | None = None


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


@router.get("/models/{model}/shadow", tags=["models"], summary="How often would the shadow have answered differently?")
async def shadow(model: str, desk: TheDesk) -> Shadowed:
    settings = desk.settings
    if model != settings.alias:
        raise ModelNotFound(
            f"'{model}' has no shadow: copies are made of requests to '{settings.alias}'", param="model"
        )
    now, serving = desk.shadow.now, desk.models.served(settings.alias)
    about = {"alias": model, "serving": serving.artifact if serving else None, "copied": settings.shadow_share}
    if now is None:
        return Shadowed(**about, shadow=None, problem=_why_no_shadow(desk))
    low, high = now.interval
    return Shadowed(
        **about,
        shadow=now.shadow.artifact,
        compared=now.compared,
        disagreed=now.disagreed,
        share=now.disagreed / now.compared if now.compared else None,
        low=low if now.compared else None,
        high=high if now.compared else None,
        pairs=tuple(
            LabelPair(label=label, shadow_label=other, count=count) for (label, other), count in now.pairs.most_common()
        ),
        dropped=now.dropped,
        failed=now.failed,
        latency_ratio=now.latency_ratio,
        samples=tuple(Disagreement(**vars(one)) for one in now.samples),
        problem=now.problem,
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


def _why_no_shadow(desk: Desk) -> str:
    settings = desk.settings
    if not settings.shadow_share:
        return "no request is copied: set UNDERSTUDY_STUDENT_SHADOW_SHARE"
    default = f"'{settings.shadow}' and '{settings.alias}' name one model, or one of them is being loaded"
    return desk.models.problems.get(settings.shadow, default)
