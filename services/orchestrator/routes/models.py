"""`/v1/models`: the published models by their artifact ids, and the aliases that point at them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from services.orchestrator.context import Context
from services.orchestrator.routes.state import TheContext
from services.orchestrator.wire import Deleted, ModelObject, Page, model_object
from understudy.artifacts import Artifact, ids_in
from understudy.errors import ArtifactNotFound, Conflict, ModelNotFound

__all__ = ["router"]

_IN_USE: dict[int | str, dict[str, Any]] = {409: {"description": "An alias or an unfinished job needs the model"}}

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="Aliases first, then the published models, newest first")
def list_models(context: TheContext) -> Page[ModelObject]:
    aliases = [
        model_object(name, context.artifacts.get(target)) for name, target in context.artifacts.aliases().items()
    ]
    published = [one for one in context.artifacts.list("model") if one.meta.get("role") == "published"]
    return Page(data=aliases + [model_object(one.id, one) for one in reversed(published)])


@router.get("/{model}", summary="A model by its id or alias, an unpublished arm too")
def retrieve(context: TheContext, model: str) -> ModelObject:
    return model_object(model, _model(context, model))


@router.delete("/{model}", summary="Remove a model that no alias and no unfinished job needs", responses=_IN_USE)
def delete(context: TheContext, model: str) -> Deleted:
    artifact = _model(context, model)
    if model != artifact.id:
        raise Conflict(
            f"'{model}' is an alias of {artifact.id}, and an alias is not deleted: it moves on", param="model"
        )
    _check_free(context, artifact.id)
    context.artifacts.delete(artifact.id, lambda: _check_free(context, artifact.id))
    return Deleted(id=model, object="model")


def _model(context: Context, name: str) -> Artifact:
    try:
        artifact = context.artifacts.get(context.artifacts.resolve(name))
    except ArtifactNotFound as error:
        raise ModelNotFound(error.message, param="model") from error
    if artifact.kind != "model":
        raise ModelNotFound(f"'{artifact.id}' is a {artifact.kind} and no model", param="model")
    return artifact


def _check_free(context: Context, model: str) -> None:
    aliases = [name for name, target in context.artifacts.aliases().items() if target == model]
    if aliases:
        raise Conflict(f"'{model}' is what {', '.join(aliases)} stands for: publish another there first", param="model")
    for job in context.jobs.unfinished():
        arms = {result["artifact"] for result in context.flow.results(job.id, "train") if result}
        named = ids_in(job.model_dump_json(include={"model", "spec", "facts"}))  # also within `cut:2@model-...`
        if model in named | arms:
            raise Conflict(
                f"'{model}' is needed by job {job.id}, which is {job.status}: cancel it first", param="model"
            )
