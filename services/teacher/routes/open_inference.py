"""The Open Inference Protocol V2, with the binary tensor and the model repository extensions.

The protocol: https://github.com/kserve/open-inference-protocol (`inference_rest.md`); the extensions are Triton's. What
the tensors mean is said in `tensors.py`. A model's one version is its fingerprint. Errors are `{"error": "<message>"}`
at all of these addresses, whoever raised them: see `understudy.string_errors`.
"""

from __future__ import annotations

import json
from functools import partial
from importlib.metadata import version as version_of
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError

from services.teacher.desk import Check, Desk
from services.teacher.routes import tensors
from services.teacher.routes.state import TheDesk
from understudy.errors import InvalidRequest, Unavailable
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
    responses={status: {"model": ErrorString} for status in (400, 401, 404, 413, 415, 429, 503)},
)

_BODY: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["A dull film."]}],
                    "parameters": {"method": "saliency", "top_k": 3},
                },
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        }
    }
}


# --- server ----------------------------------------------------------------------------------------------------------


@router.get("", summary="The server's name, version and extensions")
async def server() -> dict[str, Any]:
    return {
        "name": "understudy-teacher",
        "version": version_of("understudy"),
        "extensions": ["binary_tensor_data", "model_repository"],
    }


@router.get("/health/live", summary="The event loop runs")
async def live() -> dict[str, bool]:
    return {"live": True}


@router.get("/health/ready", summary="The service can do its work")
async def ready(request: Request) -> dict[str, bool]:
    request.state.readiness.details()
    return {"ready": True}


# --- models: a name may hold slashes, so the longest addresses come first ---------------------------------------------


@router.post(
    "/models/{model:path}/versions/{version}/infer",
    summary="Answers and words of this version of a model",
    openapi_extra=_BODY,
)
async def infer_version(model: str, version: str, request: Request, desk: TheDesk) -> Response:
    asked = await read_inference(request, desk.settings.max_body_bytes)
    return await _infer(desk, model, asked, partial(check_version, model, version))


@router.post(
    "/models/{model:path}/infer",
    summary="The model's answers, and the words that decided them, as tensors",
    openapi_extra=_BODY,
)
async def infer(model: str, request: Request, desk: TheDesk) -> Response:
    return await _infer(desk, model, await read_inference(request, desk.settings.max_body_bytes))


@router.get("/models/{model:path}/versions/{version}/ready", summary="This version of a model is in memory")
async def version_ready(model: str, version: str, desk: TheDesk) -> ModelReady:
    await _in_memory(desk, model)
    await _check_version(desk, model, version)
    return ModelReady(name=model)


@router.get("/models/{model:path}/ready", summary="A model is in memory; asking does not load it")
async def model_ready(model: str, desk: TheDesk) -> ModelReady:
    await _in_memory(desk, model)
    return ModelReady(name=model)


@router.get("/models/{model:path}/versions/{version}", summary="The tensors of this version of a model")
async def version_metadata(model: str, version: str, desk: TheDesk) -> ModelMetadata:
    await _check_version(desk, model, version)
    return _metadata(model, version)


@router.get("/models/{model:path}", summary="A model's tensors and version; it is loaded if it has to be")
async def model_metadata(model: str, desk: TheDesk) -> ModelMetadata:
    return _metadata(model, (await desk.info(model)).fingerprint)


def _metadata(model: str, version: str) -> ModelMetadata:
    return ModelMetadata.of(model, version, "pytorch_safetensors", tensors.INPUTS, tensors.OUTPUTS)


async def _in_memory(desk: Desk, model: str) -> None:
    if not await desk.is_loaded(model):
        raise Unavailable(f"model '{model}' is not in memory: load it, or name it in a request")


async def _check_version(desk: Desk, model: str, version: str) -> None:
    check_version(model, version, (await desk.info(model)).fingerprint)


async def _infer(desk: Desk, model: str, asked: InferRequest, *check: Check) -> Response:
    about: dict[str, Any] = {"model_name": model}
    if tensors.explains(asked):
        explained = await desk.attribute(tensors.attribution_request(model, asked), *check)
        outputs = tensors.attribution_tensors(explained)
        about["model_version"] = explained.fingerprint
        about["parameters"] = {
            "method": explained.method,
            "settings": json.dumps(explained.settings),
            "target": explained.target,
            "precision": explained.precision,
        }
    else:
        outputs = tensors.prediction_tensors(await desk.predict(tensors.prediction_request(model, asked), *check))
    return tensor_response(asked, outputs, about)


# --- repository ------------------------------------------------------------------------------------------------------


class RepositoryBody(BaseModel):
    """What a client of the repository may send; `ready` asks for models in memory, and the index has no others."""

    ready: bool = False
    parameters: dict[str, Any] = {}


@router.post("/repository/index", summary="The models in memory; any that is offered here can be loaded by its name")
async def index(request: Request, desk: TheDesk) -> list[ModelState]:
    await _repository_body(request)
    return [ModelState(name=model.id, version=model.fingerprint) for model in desk.loaded()]


@router.post("/repository/models/{model:path}/load", summary="Load a model, so that it is ready for requests")
async def load(model: str, request: Request, desk: TheDesk) -> dict[str, Any]:
    if (await _repository_body(request)).parameters:
        raise InvalidRequest("parameters: none is read here: a model is loaded as it was published", param="parameters")
    await desk.load(model)
    return {"name": model, "load": True}


@router.post("/repository/models/{model:path}/unload", summary="Put a model out of memory")
async def unload(model: str, request: Request, desk: TheDesk) -> dict[str, Any]:
    """The parameter `unload_dependents` of the protocol changes nothing: no model here depends on another."""
    await _repository_body(request)
    await desk.unload(model)
    return {"name": model, "unload": True}


async def _repository_body(request: Request) -> RepositoryBody:
    """Read it whatever its content type: the stock client sends none, and often no body."""
    try:
        return RepositoryBody.model_validate_json(await request.body() or b"{}")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise InvalidRequest(f"{where}: {first['msg']}", param="parameters") from error
