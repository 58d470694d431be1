"""Requests of other protocols as requests of ours: checked by the same models, complained of in the same way.

Knows neither of those protocols; only how a complaint of a wire model becomes one of the application.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

__all__ = ["as_request"]

R = TypeVar("R", bound=BaseModel)


def as_request(kind: type[R], fields: Mapping[str, Any], *, whole: str) -> R:
    """Make a request of its fields. Raises RequestValidationError, which the application answers as for any other body.

    `whole` names the part of the body that is at fault where no single field is.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError([_placed(dict(one), whole) for one in error.errors(include_url=False)]) from error


def _placed(complaint: dict[str, Any], whole: str) -> dict[str, Any]:
    return complaint | {"loc": ("body", *(complaint["loc"] or (whole,)))}
