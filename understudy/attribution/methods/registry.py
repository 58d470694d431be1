"""The contract of a method, where methods are found by name, and how one is made from a request's settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import ConfigDict, ValidationError

from understudy.errors import InvalidRequest
from understudy.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.models.base import Adapter, Batch

__all__ = ["METHODS", "SETTINGS", "Method", "TokenMethod", "make_method", "settings_of"]

SETTINGS = ConfigDict(extra="forbid")
"""The configuration of the pydantic dataclasses that methods are: a setting that there is not is an error."""


class Method(Protocol):
    """A frozen dataclass: its settings are its fields, and calling it explains a batch.

    `unit` says what it scores. `complete` promises that an example's scores add up to the change of the objective from
    the adapter's baseline to the example.
    """

    unit: ClassVar[Literal["token", "word"]]
    complete: ClassVar[bool]

    def __call__(self, adapter: Adapter, batch: Batch) -> Tensor:
        """How much each unit moved `adapter.objective(batch)`: (B, T) for tokens, (B, W) for `batch.words`.

        Padding scores zero, and so does what stands behind an example's last word.
        """


class TokenMethod(Method, Protocol):
    """A method that can explain each token of an answer.

    One that has the map and its rows in one go has a `map_and_rows(adapter, batch)` beside, which returns both.
    """

    def rows(self, adapter: Adapter, batch: Batch) -> Tensor:
        """One map for each token of the explained answer: (S, B, T), zero where an example's answer is shorter."""


METHODS: Registry[Any] = Registry("method")


def make_method(name: str, settings: Mapping[str, Any]) -> Method:
    """The method of that name with these settings. Raises UnknownName, and InvalidRequest that names the setting."""
    kind = METHODS.get(name, param="method")
    try:
        return kind(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        known = [field.name for field in dataclasses.fields(kind)]
        param = ".".join(["settings", *map(str, first["loc"])])
        offered = f"it has {', '.join(known)}" if known else "it has none"
        wrong = "there is no such setting" if first["type"] == "unexpected_keyword_argument" else first["msg"]
        raise InvalidRequest(f"{param} of the method '{name}': {wrong} ({offered})", param=param) from error


def settings_of(method: Method) -> dict[str, Any]:
    """All settings of a method, defaults included."""
    return dataclasses.asdict(method)  # type: ignore[call-overload]
