"""`/v1/models`: the published models by their artifact ids, and the aliases that point at them."""

from __future__ import annotations

from fastapi import APIRouter

from services.orchestrator.routes.state import TheContext
from services.orchestrator.wire import ModelObject, Page, model_object
from understudy.errors import ArtifactNotFound, ModelNotFound

__all__ = ["router"]

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
    try:
        artifact = context.artifacts.get(context.artifacts.resolve(model))
    except ArtifactNotFound as error:
        raise ModelNotFound(error.message, param="model") from error
    if artifact.kind != "model":
        raise ModelNotFound(f"'{artifact.id}' is a {artifact.kind} and no model", param="model")
    return model_object(model, artifact)
