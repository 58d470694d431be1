"""The page of settings: every environment variable of the three services, its default and its meaning.

A field's meaning is the docstring under it, which pydantic itself does not keep; so the source is read as well.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings
from tables import cell, code, table

__all__ = ["SERVICES", "described", "fields", "names", "page"]

SERVICES = ("orchestrator", "teacher", "student")

INTRO = """\
# Settings

Made from `services/*/settings.py`. Every setting is an environment variable, read once at start. A list is JSON, or
separated by commas. `understudy up` sets what its services need of each other; the rest is as you have it in your
environment.

"""

OTHERS = """\
## For all

| Variable | Meaning |
| --- | --- |
| `UNDERSTUDY_API_KEY` | the key that the command line sends |
| `UNDERSTUDY_ARTIFACTS` | the root of the artifact store, which all services share |
| `UNDERSTUDY_LOG` | `json` writes logs for machines; anything else writes them for people |
| `REDIS_URL` | the broker, where `UNDERSTUDY_BROKER_URL` names none |
| `HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE` | Hugging Face's own: where models are kept, a key, no network |
"""


def page() -> str:
    parts = [INTRO]
    for service in SERVICES:
        rows = [
            ("<br>".join(code(name) for name in names(settings, name)), _default(field), cell(text))
            for settings, name, field, text in fields(service)
        ]
        parts += [f"## {service.capitalize()}\n\n", table(("Variable", "Default", "Meaning"), rows), "\n"]
    return "".join([*parts, OTHERS])


def fields(service: str) -> Iterator[tuple[type[BaseSettings], str, FieldInfo, str]]:
    settings = importlib.import_module(f"services.{service}.settings").Settings
    texts = described(settings)
    for name, field in settings.model_fields.items():
        yield settings, name, field, texts.get(name) or _bounds(field)


def names(settings: type[BaseSettings], name: str) -> list[str]:
    """The variables that set a field, the first one first."""
    alias = settings.model_fields[name].validation_alias
    if isinstance(alias, AliasChoices):
        return [str(one) for one in alias.choices]
    return [f"{settings.model_config.get('env_prefix', '')}{name}".upper()]


def described(settings: type[BaseSettings]) -> dict[str, str]:
    """Fields' meanings by their names, those of base classes too."""
    found: dict[str, str] = {}
    for cls in reversed(settings.__mro__):
        if issubclass(cls, BaseSettings) and cls is not BaseSettings:
            found |= dict(_docstrings(cls))
    return found


def _docstrings(cls: type) -> Iterator[tuple[str, str]]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    body = getattr(tree, "body", [])
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            yield field.target.id, inspect.cleandoc(str(getattr(text.value, "value", "")))


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, tuple):
        return code(",".join(map(str, value)))
    return code(str(value).lower() if isinstance(value, bool) else str(value))


def _bounds(field: FieldInfo) -> str:
    """What may be given, of a setting whose name says what it is."""
    choices = get_args(field.annotation)
    if choices and all(isinstance(one, str) for one in choices):
        return "one of " + ", ".join(f"`{one}`" for one in choices)
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    said = [
        f"{text} {getattr(one, sign)}" for one in field.metadata for sign, text in signs.items() if hasattr(one, sign)
    ]
    return ", ".join(said)
