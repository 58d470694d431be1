"""What a client may ask for: OpenAI's job request with our method, checked field by field before a job exists.

Checks that need a file's content, a model or a teacher are phases of the job.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from services.orchestrator.jobs import Job, new_id
from services.orchestrator.phases.fields import told_as
from understudy import tracing
from understudy.artifacts import check_alias
from understudy.attribution.methods import make_method
from understudy.errors import InvalidRequest
from understudy.models.names import PREFIX, is_cut, parse_cut, parse_scratch
from understudy.schemas import DistillationSpec, Hyperparameters, Request, SupervisedSpec, TaskSpec, TrainingSpec
from understudy.training.recipes import AUTO, parse_recipe

__all__ = ["JobRequest", "MethodRequest", "job_of"]

MAX_SEED = 2**31 - 1
_SPEC = "method.distillation"

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
FileId = Annotated[str, Field(min_length=1, max_length=64)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class MethodRequest(Request):
    """OpenAI's `method`: its `supervised`, and the one type that is ours."""

    type: Literal["distillation", "supervised"]
    distillation: DistillationSpec | None = None
    supervised: SupervisedSpec | None = None

    @property
    def spec(self) -> DistillationSpec | SupervisedSpec:
        """The part that belongs to the type. Raises InvalidRequest where it is missing, or another one is there."""
        other = "supervised" if self.type == "distillation" else "distillation"
        if getattr(self, other) is not None:
            raise InvalidRequest(f"method.type is {self.type}: leave method.{other} out", param=f"method.{other}")
        if self.type == "supervised":
            return self.supervised or SupervisedSpec()
        if self.distillation is None:
            raise InvalidRequest(
                'method.distillation is missing: it names the teacher, {"teacher": {"model": ...}}', param=_SPEC
            )
        return self.distillation


class JobRequest(Request):
    """`model` is the student. `hyperparameters` is where OpenAI once had them; `method` is their place."""

    model: str = Field(min_length=1, max_length=500)
    training_file: FileId
    validation_file: FileId | None = None
    method: MethodRequest | None = None
    hyperparameters: Hyperparameters | None = None
    suffix: str | None = Field(default=None, min_length=1, max_length=64)
    seed: Seed | None = None
    metadata: Metadata | None = None
    integrations: list[Any] | None = None


def job_of(request: JobRequest, now: float) -> Job:
    """The job that a request describes; without a method it is `supervised`, as OpenAI has it.

    Raises InvalidRequest, whose `param` is the field at fault.
    """
    if request.integrations:
        raise InvalidRequest("no integration is offered here: leave integrations out", param="integrations")
    _check_model(request.model, "model")
    _check_storable(request.model_dump())
    method = request.method or MethodRequest(type="supervised")
    spec, place = method.spec, f"method.{method.type}"
    chosen = {"seeds": _seeds(request, spec, place), "hyperparameters": _hyperparameters(request, spec, place)}
    spec = spec.model_copy(update=chosen)
    _check_cut(request.model, spec)
    _check_seeds(spec, place)
    if len(set(spec.sizes)) < len(spec.sizes):
        raise InvalidRequest("a size is given twice, which would train the same arms twice", param=f"{place}.sizes")
    _check_template(spec, place)
    if isinstance(spec, DistillationSpec):
        for check in TEACHING:
            check(spec)
    job = Job(
        id=new_id("ftjob-"),
        created_at=int(now),
        phase_started_at=now,
        model=request.model,
        training_file=request.training_file,
        validation_file=request.validation_file,
        spec=spec,
        suffix=request.suffix,
        metadata=request.metadata,
        traceparent=tracing.traceparent(),
    )
    check_alias(job.alias, param="suffix" if request.suffix else f"{place}.alias")
    return job


def _check_storable(value: Any, param: str = "") -> None:
    """Raise InvalidRequest for a text with NUL and for a number that is not finite, by its field.

    JSON can say both (as `1e999`, the latter), and a database takes neither for JSON. They are refused here and not by
    the models, which also read the jobs that are stored already.
    """
    if isinstance(value, dict):
        for name, one in value.items():
            if "\0" in name:
                raise InvalidRequest("a name has no NUL character: take it out", param=param)
            _check_storable(one, f"{param}.{name}" if param else name)
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            _check_storable(one, f"{param}[{index}]")
    elif isinstance(value, str) and "\0" in value:
        raise InvalidRequest("a text has no NUL character: take it out", param=param)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"a number is finite, not {value}: give one that is", param=param)


def _seeds(request: JobRequest, spec: TrainingSpec, place: str) -> tuple[int, ...]:
    """OpenAI's one seed or our several; seed 0 is a seed."""
    if request.seed is None:
        return spec.seeds
    if "seeds" not in spec.model_fields_set:
        return (request.seed,)
    if request.seed != spec.seeds[0]:
        raise InvalidRequest(
            f"seed is {request.seed} and {place}.seeds begins with {spec.seeds[0]}: give one of the two", param="seed"
        )
    return spec.seeds


def _hyperparameters(request: JobRequest, spec: TrainingSpec, place: str) -> Hyperparameters:
    if request.hyperparameters is None:
        return spec.hyperparameters
    if "hyperparameters" in spec.model_fields_set and spec.hyperparameters != request.hyperparameters:
        raise InvalidRequest(
            f"hyperparameters and {place}.hyperparameters differ: give one of the two", param="hyperparameters"
        )
    return request.hyperparameters


def _check_model(ref: str, param: str) -> None:
    if not ref.isprintable():
        raise InvalidRequest("a model's name has printable characters only", param=param)
    if ref.startswith(PREFIX):
        parse_scratch(ref, param=param)
    if is_cut(ref):
        parse_cut(ref, param=param)


def _check_cut(model: str, spec: TrainingSpec) -> None:
    """A cut that names no model is one of the job's teacher, whose layers are known where it is made here."""
    if not is_cut(model) or parse_cut(model).base:
        return
    if not isinstance(spec, DistillationSpec):
        raise InvalidRequest(
            f"'{model}' is cut from the job's teacher, and a supervised job has none: write {model}@<model>",
            param="model",
        )
    cut, teacher = parse_cut(model), spec.teacher.model
    if teacher.startswith(PREFIX) and max(cut.layers, cut.decoder_layers or 0) > parse_scratch(teacher).layers:
        raise InvalidRequest(
            f"'{model}' keeps more layers than the teacher '{teacher}' has, which are {parse_scratch(teacher).layers}",
            param="model",
        )


def _check_seeds(spec: TrainingSpec, place: str) -> None:
    for index, seed in enumerate(spec.seeds):
        if not 0 <= seed <= MAX_SEED:
            raise InvalidRequest(f"a seed is between 0 and {MAX_SEED}, not {seed}", param=f"{place}.seeds[{index}]")
    if len(set(spec.seeds)) < len(spec.seeds):
        raise InvalidRequest("a seed is given twice, which would train the same arm twice", param=f"{place}.seeds")


def _check_teacher(spec: DistillationSpec) -> None:
    _check_model(spec.teacher.model, f"{_SPEC}.teacher.model")
    if is_cut(spec.teacher.model):
        raise InvalidRequest(
            f"'{spec.teacher.model}' is a part of a model, and a teacher is a whole one: name the model itself",
            param=f"{_SPEC}.teacher.model",
        )
    if spec.teacher.model.startswith(PREFIX) and not spec.teacher.finetune:
        raise InvalidRequest(
            f"the teacher '{spec.teacher.model}' has random weights and nothing to teach: set finetune to true, "
            "or name a trained model",
            param=f"{_SPEC}.teacher.model",
        )


def _check_recipes(spec: DistillationSpec) -> None:
    for name in [spec.recipe] if isinstance(spec.recipe, str) else spec.recipe:
        if name != AUTO:
            parse_recipe(name, param=f"{_SPEC}.recipe")


def _check_method(spec: DistillationSpec) -> None:
    attribution = f"{_SPEC}.attribution"
    with told_as({"method": f"{attribution}.method", "settings": f"{attribution}.settings"}):
        make_method(spec.attribution.method, spec.attribution.settings)


def _check_template(spec: TrainingSpec, place: str) -> None:
    try:
        TaskSpec(template=spec.template)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidRequest(reason, param=f"{place}.template") from error


TEACHING: tuple[Callable[[DistillationSpec], None], ...] = (_check_teacher, _check_recipes, _check_method)
"""The checks of what only a job with a teacher has."""
