"""Errors name fields of a request; who types a command knows its options. Here is which is which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import typer

from understudy.errors import InvalidRequest, UnderstudyError

__all__ = ["JOB_OPTIONS", "as_options", "listed", "option_of", "pairs", "wrong_use"]

JOB_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "model": "--student",
        "training_file": "FILE",
        "validation_file": "--validation",
        "method.distillation.test_file": "--test",
        "method.distillation.teacher.model": "--teacher, --finetune-teacher",
        "method.distillation.unlabelled_file": "--unlabelled",
        "method.distillation.min_probability": "--min-probability",
        "method.distillation.recipe": "--recipe",
        "method.distillation.attribution.method": "--attribution",
        "method.distillation.attribution.settings": "--attribution",
        "method.distillation.attribution.top_k": "--top-k",
        "method.distillation.hyperparameters.max_steps": "--max-steps",
        "method.distillation.hyperparameters.seconds": "--seconds",
        "method.distillation.hyperparameters.patience": "--patience",
        "method.distillation.sizes": "--sizes",
        "method.distillation.lora.rank": "--lora",
        "method.distillation.budget": "--budget-seconds, --budget-teacher-tokens",
        "method.distillation.budget.seconds": "--budget-seconds",
        "method.distillation.budget.teacher_tokens": "--budget-teacher-tokens",
        "method.distillation.template": "--template",
        "method.distillation.alias": "--alias",
        "metadata": "--metadata",
    }
)
"""A job's fields by the options of `distill` that set them."""


def option_of(param: str | None) -> str | None:
    """The option of `distill` that sets a job's field; None where none does."""
    return JOB_OPTIONS.get(param or "")


@contextmanager
def as_options(named: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """An error about a field is one about the option of its name, or of the name that `named` gives it."""
    try:
        yield
    except UnderstudyError as error:
        field = (error.param or "").partition(".")[0]
        known = field.startswith(("--", "TEXT")) or not field
        error.param = error.param if known else named.get(field) or f"--{field.replace('_', '-')}"
        raise


@contextmanager
def wrong_use(*names: str) -> Iterator[None]:
    """An error about one of these parameters is a wrong use of the command: exit status 2."""
    try:
        yield
    except InvalidRequest as error:
        if error.param not in names:
            raise
        raise typer.BadParameter(error.message, param_hint=error.param) from error


def listed(text: str | None) -> tuple[str, ...] | None:
    """What stands between the commas."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """`["team=vision"]` -> `{"team": "vision"}`. Raises InvalidRequest."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InvalidRequest(f"'{text}' is not of the form KEY=VALUE", param=option)
        found[name] = value
    return found
