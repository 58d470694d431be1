"""The teacher's own addresses: each route asks the desk, and answers in the form that the caller accepts."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from services.teacher.routes.state import TheDesk
from understudy.attribution.heatmap import to_html
from understudy.schemas import (
    AttributionRequest,
    AttributionResponse,
    ModelInfo,
    PredictionRequest,
    PredictionResponse,
)

__all__ = ["router"]

router = APIRouter(prefix="/v1")

JSON, LINES, PAGE = "application/json", "application/x-ndjson", "text/html"


class ServedModel(ModelInfo):
    """`name` and `ready` are what KServe's clients look for at the same address."""

    name: str
    ready: Literal[True] = True


class Ndjson(StreamingResponse):
    """One JSON object a line, each sent as soon as it is there; when the client leaves, the rest is never computed."""

    def __init__(self, lines: AsyncGenerator[Mapping[str, Any], None]) -> None:
        self._lines = _encoded(lines)
        super().__init__(self._lines, media_type=LINES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._lines):
            await super().__call__(scope, receive, send)


@router.post(
    "/attributions",
    tags=["attribution"],
    summary="Which words of each text decided the answer",
    response_model=AttributionResponse,
    responses={
        200: {
            "description": "With `Accept: application/x-ndjson` one line for what all share, one for each example as "
            "it is ready, and one that says how many there were; with `Accept: text/html` a page to look at",
            "content": {LINES: {}, PAGE: {}},
        }
    },
)
async def attributions(request: Request, body: AttributionRequest, desk: TheDesk) -> Response:
    form = _accepted(request.headers.get("accept", ""))
    if form == LINES:
        return Ndjson(await desk.stream(body))
    answer = await desk.attribute(body)
    if form == PAGE:
        facts = {name: str(getattr(answer, name)) for name in ("model", "fingerprint", "target", "precision")}
        settings = {name: str(value) for name, value in answer.settings.items()}
        texts = [example.input for example in body.examples]
        return HTMLResponse(to_html(answer.results, texts, title=answer.method, facts=facts | settings))
    return Response(answer.model_dump_json(), media_type=JSON)


@router.post("/predictions", tags=["prediction"], summary="The model's own answers")
async def predictions(body: PredictionRequest, desk: TheDesk) -> PredictionResponse:
    return await desk.predict(body)


@router.get("/models", tags=["models"], summary="The models in memory; others are loaded when they are named")
async def models(desk: TheDesk) -> dict[str, Any]:
    return {"object": "list", "data": [model.model_dump(mode="json") for model in desk.loaded()]}


@router.get("/models/{model:path}", tags=["models"], summary="Facts about a model, which is loaded if it has to be")
async def model(model: str, desk: TheDesk) -> ServedModel:
    return ServedModel(name=model, **(await desk.info(model)).model_dump())


@router.delete(
    "/models/{model:path}",
    tags=["models"],
    summary="Put a model out of memory, when its requests have ended",
    status_code=204,
)
async def put_out(model: str, desk: TheDesk) -> None:
    await desk.unload(model)


async def _encoded(lines: AsyncGenerator[Mapping[str, Any], None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(lines):
        async for line in lines:
            yield json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _accepted(header: str) -> str:
    """The form of an answer that an Accept header likes best; JSON where it names none that is offered."""
    wanted: list[tuple[float, str]] = []
    for part in header.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((piece.removeprefix("q=") for piece in parameters if piece.startswith("q=")), "1")
        if kind in (JSON, LINES, PAGE) and quality.replace(".", "", 1).isdigit():
            wanted.append((float(quality), kind))
    best = max((quality for quality, _ in wanted), default=0.0)
    return next((kind for quality, kind in wanted if quality == best and best > 0), JSON)
