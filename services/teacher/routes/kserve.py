"""KServe's V1 protocol: `:predict` and `:explain` over `instances`.

The protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol. An instance is a text,
or an object with the fields of an example; options of the native addresses stand beside `instances` under their own
names, or in `parameters`. The answers are the native ones, as `predictions` and `explanations`. Errors have the native
shape too, `{"error": {"message", ...}}`: KServe's own servers answer with a string there, and KServe's client prints
what it finds. The protocol's `GET /v1/models` and `GET /v1/models/{name}` are the native addresses of the same name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from services.teacher.routes.bodies import as_request
from services.teacher.routes.state import TheDesk
from understudy.errors import InvalidRequest
from understudy.schemas import AttributionRequest, PredictionRequest, PredictionResponse

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["KServe V1"])

_OURS = re.compile(r"\b(examples|inputs)(?=\[\d|$)")


class Instances(BaseModel):
    """`instances` may be called `inputs`. Any option of the native request stands beside it, or in `parameters`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    instances: list[Any] = Field(min_length=1, validation_alias=AliasChoices("instances", "inputs"))
    parameters: dict[str, Any] = {}


@router.post("/models/{model:path}:predict", summary="The model's own answers, as KServe asks for them")
async def predict(model: str, body: Instances, desk: TheDesk) -> PredictionResponse:
    """Words are computed only where the option `explain` asks for them: `:explain` is the address for that."""
    fields = {"explain": False} | _options(body) | {"model": model, "inputs": _objects(body.instances)}
    with _said_of_instances():
        return await desk.predict(as_request(PredictionRequest, fields, whole="parameters"))


@router.post("/models/{model:path}:explain", summary="Which words decided the answers, as KServe asks for them")
async def explain(model: str, body: Instances, desk: TheDesk) -> dict[str, Any]:
    fields = _options(body) | {"model": model, "examples": _objects(body.instances)}
    with _said_of_instances():
        answer = await desk.attribute(as_request(AttributionRequest, fields, whole="parameters"))
    return {"explanations" if key == "results" else key: value for key, value in answer.model_dump(mode="json").items()}


def _options(body: Instances) -> dict[str, Any]:
    beside = body.model_extra or {}
    for name in beside:
        if name in body.parameters:
            raise InvalidRequest(f"{name} is given twice: beside the instances and in parameters", param=name)
    options = beside | body.parameters
    for name in ("model", "inputs", "examples"):
        if name in options:
            raise InvalidRequest(f"{name}: there is no such field", param=name)
    return options


def _objects(instances: list[Any]) -> list[dict[str, Any]]:
    for position, one in enumerate(instances):
        if not isinstance(one, str | dict):
            place = f"instances[{position}]"
            raise InvalidRequest(f"{place}: an instance is a text, or an object with an 'input'", param=place)
    return [{"input": one} if isinstance(one, str) else one for one in instances]


@contextmanager
def _said_of_instances() -> Iterator[None]:
    """What is said of `examples` or `inputs` further down is said of `instances` here."""
    try:
        yield
    except RequestValidationError as error:
        renamed = [one | {"loc": [_renamed(part) for part in one["loc"]]} for one in error.errors()]
        raise RequestValidationError(renamed) from error
    except InvalidRequest as error:
        error.param = _renamed(error.param)
        error.message = _renamed(error.message)
        raise


def _renamed(text: Any) -> Any:
    return _OURS.sub("instances", text) if isinstance(text, str) else text
