"""The Open Inference Protocol V2, with the binary tensor extension and the index of the model repository extension.

The protocol: https://github.com/kserve/open-inference-protocol (`inference_rest.md`); the extensions are Triton's. What
the tensors mean is said in `tensors.py`. A model's one version is its artifact: an alias that moves has another then.
Errors are `{"error": "<message>"}` at all of these addresses, whoever raised them: see `understudy.string_errors`.
"""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from services.student.desk import Desk
from services.student.routes import native, tensors
from services.student.routes.state import FOREVER, Patience, TheDesk
from understudy.errors import Unavailable
from understudy.inference_routes import (
    ModelMetadata,
    ModelReady,
    ModelState,
    check_version,
    read_inference,
    tensor_response,
)
from understudy.open_inference import InferRequest
from understudy.string_errors import ErrorString

__all__ = ["HEALTH", "router"]

HEALTH = ("/v2/health/live", "/v2/health/ready")
"""The addresses that probes ask, without a key."""

router = APIRouter(
    prefix="/v2",
    tags=["Open Inference Protocol V2"],
    responses={status: {"model": ErrorString} for status in (400, 401, 404, 413, 415, 422, 429, 500, 503, 504)},
)

_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"enum": list(tensors.INPUTS)},
        "datatype": {"const": "BYTES"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
        "data": {"type": "array", "description": "The texts; absent where they are binary"},
        "parameters": {"type": "object"},
    },
}
_NAMED = {"type": "object", "required": ["name"], "properties": {"name": {"enum": list(tensors.OUTPUTS)}}}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 2},
        "outputs": {"type": "array", "items": _NAMED},
        "parameters": {"type": "object", "properties": {name: {} for name in tensors.PARAMETERS}},
    },
    "example": {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["A dull film."]}],
        "parameters": {"top_k": 3},
    },
}
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": _REQUEST}, **_BINARY}}
}
_TENSORS: dict[int | str, dict[str, Any]] = {200: {"content": _BINARY}}


class Live(BaseModel):
    live: Literal[True] = True


class Ready(BaseModel):
    ready: Literal[True] = True


class Server(BaseModel):
    name: str = "understudy-student"
    version: str
    extensions: tuple[str, ...] = ("binary_tensor_data", "model_repository(index)")


@router.get("", summary="The server's name, version and extensions")
async def server() -> Server:
    return Server(version=version_of("understudy"))


@router.get("/health/live", summary="The event loop runs")
async def live() -> Live:
    return Live()


@router.get("/health/ready", summary="The service can do its work")
async def ready(request: Request, desk: TheDesk) -> Ready:
    if request.app.state.draining:
        raise Unavailable("the service is shutting down")
    desk.ready()
    return Ready()


@router.get("/models/{model}", summary="A model's tensors and version; it is loaded if it has to be")
async def model_metadata(model: str, desk: TheDesk) -> ModelMetadata:
    return _metadata(model, (await desk.model(model)).artifact)


@router.get("/models/{model}/versions/{version}", summary="The tensors of this version of a model")
async def version_metadata(model: str, version: str, desk: TheDesk) -> ModelMetadata:
    await _check_version(desk, model, version)
    return _metadata(model, version)


@router.get("/models/{model}/ready", summary="A model is in memory; asking does not load it")
async def model_ready(model: str, desk: TheDesk) -> ModelReady:
    await desk.models.check_loaded(model)
    return ModelReady(name=model)


@router.get("/models/{model}/versions/{version}/ready", summary="This version of a model is in memory")
async def version_ready(model: str, version: str, desk: TheDesk) -> ModelReady:
    await desk.models.check_loaded(model)
    await _check_version(desk, model, version)
    return ModelReady(name=model)


@router.post(
    "/models/{model}/infer",
    summary="Labels, and the words that the model names as its reasons, as tensors",
    openapi_extra=_BODY,
    responses=_TENSORS,
)
async def infer(model: str, request: Request, desk: TheDesk, patience: Patience = FOREVER) -> Response:
    return await _infer(desk, model, await read_inference(request, desk.settings.max_body_bytes), patience)


@router.post(
    "/models/{model}/versions/{version}/infer",
    summary="Labels and words of this version of a model",
    openapi_extra=_BODY,
    responses=_TENSORS,
)
async def infer_version(
    model: str, version: str, request: Request, desk: TheDesk, patience: Patience = FOREVER
) -> Response:
    asked = await read_inference(request, desk.settings.max_body_bytes)
    await _check_version(desk, model, version)
    return await _infer(desk, version, asked, patience, name=model)


@router.post("/repository/index", summary="The models in memory; any other is loaded by its name")
async def index(desk: TheDesk) -> list[ModelState]:
    return [ModelState(name=model.artifact, version=model.artifact) for model in desk.models.loaded()]


def _metadata(model: str, version: str) -> ModelMetadata:
    return ModelMetadata.of(model, version, "understudy_student", tensors.INPUTS, tensors.OUTPUTS)


async def _check_version(desk: Desk, model: str, version: str) -> None:
    check_version(model, version, (await desk.model(model)).artifact)


async def _infer(desk: Desk, model: str, asked: InferRequest, patience: float, name: str | None = None) -> Response:
    """Ask a model; `name` is how the answer calls it, where it is asked by its version."""
    wanted = tensors.prediction_request(model, asked)
    found = await native.response(desk, wanted, min(patience, tensors.seconds(asked) or FOREVER))
    about: dict[str, Any] = {"model_name": name or model, "model_version": found.artifact}
    if found.reasons is not None:
        about["parameters"] = {"reasons": found.reasons}
    return tensor_response(asked, tensors.prediction_tensors(found), about)
