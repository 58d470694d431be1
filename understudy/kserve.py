"""KServe's V1 protocol on the wire: instances and options of a request, and complaints that name an instance.

An instance is a text, or an object with the fields of an example; options of the native addresses stand beside
`instances` under their own names, or in `parameters`. Knows no service, no address and no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from understudy.errors import InvalidRequest, UnderstudyError

__all__ = ["Instances", "objects", "options", "said_of_instances"]

_OURS = re.compile(r"\b(examples|inputs)(?=\[\d|$)")

_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_INSTANCE: dict[str, Any] = {
    "anyOf": [_TEXT, {"type": "object", "required": ["input"], "properties": {"input": _TEXT}}]
}


class Instances(BaseModel):
    """`instances` may be called `inputs`. Any option of the native request stands beside it, or in `parameters`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    instances: list[Any] = Field(
        min_length=1, validation_alias=AliasChoices("instances", "inputs"), json_schema_extra={"items": _INSTANCE}
    )
    parameters: dict[str, Any] = {}


def options(body: Instances) -> dict[str, Any]:
    """The options of a request. Raises InvalidRequest for one that is given twice or that is no option."""
    beside = body.model_extra or {}
    for name in beside:
        if name in body.parameters:
            raise InvalidRequest(f"{name} is given twice: beside the instances and in parameters", param=name)
    found = beside | body.parameters
    for name in ("model", "inputs", "examples"):
        if name in found:
            raise InvalidRequest(f"{name}: there is no such field", param=name)
    return found


def objects(instances: list[Any]) -> list[dict[str, Any]]:
    """The fields of each instance. Raises InvalidRequest, which names it."""
    for position, one in enumerate(instances):
        if not isinstance(one, str | dict):
            place = f"instances[{position}]"
            raise InvalidRequest(f"{place}: an instance is a text, or an object with an 'input'", param=place)
    return [{"input": one} if isinstance(one, str) else one for one in instances]


@contextmanager
def said_of_instances() -> Iterator[None]:
    """What is said of `examples` or `inputs` further down is said of `instances` here."""
    try:
        yield
    except RequestValidationError as error:
        renamed = [one | {"loc": [_renamed(part) for part in one["loc"]]} for one in error.errors()]
        raise RequestValidationError(renamed) from error
    except UnderstudyError as error:
        error.param = _renamed(error.param)
        error.message = _renamed(error.message)
        raise


def _renamed(text: Any) -> Any:
    return _OURS.sub("instances", text) if isinstance(text, str) else text
