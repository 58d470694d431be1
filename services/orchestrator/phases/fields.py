"""Errors name a field of the request that was made inside; users know the fields of their job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from understudy.errors import InvalidRequest, ModelError, NotFound

__all__ = ["told_as"]


@contextmanager
def told_as(fields: Mapping[str, str], default: str | None = None) -> Iterator[None]:
    """Raise what is wrong with the request again under the job's name of the field; `default` is for all others.

    A field within a field (`settings.n_steps`) is found by the outer one's name.
    """
    try:
        yield
    except (InvalidRequest, NotFound, ModelError) as error:
        outer, dot, inner = (error.param or "").partition(".")
        param = fields[outer] + dot + inner if outer in fields else default or error.param
        raise type(error)(error.message, param=param) from error
