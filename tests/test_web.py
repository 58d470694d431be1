"""The edge that all services share, through a real application with two routes of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from asgi_lifespan import LifespanManager
from fastapi import FastAPI, Request

from understudy.errors import Overloaded, Unavailable
from understudy.schemas import AttributionRequest
from understudy.web import make_app


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield


async def _ready(request: Request) -> Mapping[str, Any]:
    if request.headers.get("x-cold"):
        raise Unavailable("no model is loaded yet")
    return {"model": "m"}


def _app() -> FastAPI:
    app = make_app("test", description="", lifespan=_lifespan, ready=_ready, max_body=2_000)

    @app.post("/attributions")
    async def attributions(body: AttributionRequest) -> dict[str, int]:
        return {"examples": len(body.examples)}

    @app.get("/busy")
    async def busy() -> None:
        raise Overloaded("full", retry_after=12.4)

    @app.get("/broken")
    async def broken() -> None:
        raise KeyError("a secret path")

    return app


async def _call(method: str, path: str, **options: Any) -> httpx.Response:
    async with LifespanManager(_app()) as manager:
        transport = httpx.ASGITransport(app=manager.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "examples", "required"),
        ({"examples": []}, "examples", "at least 1 item"),
        ({"examples": [{"input": "x"}, {"output": "y"}]}, "examples[1].input", "required"),
        ({"examples": [{"input": ""}]}, "examples[0].input", "at least 1 character"),
        ({"examples": [{"input": "x", "inptu": "y"}]}, "examples[0].inptu", "no such field"),
        ({"examples": [{"input": "x"}], "target": "silver"}, "target", "'gold' or 'predicted'"),
        ({"examples": [{"input": "x"}], "top_k": 0}, "top_k", "greater than or equal to 1"),
        ({"examples": [{"input": 5}]}, "examples[0].input", "valid string"),
    ],
)
async def test_a_bad_field_is_named(body: dict, param: str, words: str) -> None:
    answer = await _call("POST", "/attributions", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] == param
    assert words in error["message"]
    assert "more)" not in error["message"]  # each of these is one mistake
    assert error["type"] == "invalid_request_error"


async def test_broken_json_is_a_clear_400() -> None:
    answer = await _call("POST", "/attributions", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("body: the body is not valid JSON")
    assert answer.json()["error"]["param"] == "body"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-pickle"])
async def test_another_content_type_is_415(content_type: str) -> None:
    answer = await _call("POST", "/attributions", content=b"{}", headers={"content-type": content_type})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["message"]


async def _chunks() -> AsyncIterator[bytes]:
    for _ in range(100):
        yield b"x" * 100


async def test_a_large_body_is_413_with_and_without_a_content_length() -> None:
    headers = {"content-type": "application/json"}
    declared = await _call("POST", "/attributions", content=b"x" * 3_000, headers=headers)
    streamed = await _call("POST", "/attributions", content=_chunks(), headers=headers)
    assert (declared.status_code, streamed.status_code) == (413, 413)
    assert declared.json()["error"]["code"] == streamed.json()["error"]["code"] == "payload_too_large"


async def test_unknown_addresses_and_methods_have_the_error_shape() -> None:
    missing = await _call("GET", "/nowhere")
    wrong = await _call("DELETE", "/attributions")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


async def test_retry_after_is_whole_seconds() -> None:
    answer = await _call("GET", "/busy")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "12")


async def test_a_defect_tells_the_caller_nothing_of_its_cause() -> None:
    answer = await _call("GET", "/broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["error"]["code"] == "internal_error"


async def test_request_ids_are_kept_or_made() -> None:
    given = await _call("GET", "/livez", headers={"x-request-id": "abc-1"})
    forged = await _call("GET", "/livez", headers={"x-request-id": "a b{}"})
    assert given.headers["x-request-id"] == "abc-1"
    assert len(forged.headers["x-request-id"]) == 32


async def test_live_is_not_ready() -> None:
    ready = await _call("GET", "/readyz")
    cold = await _call("GET", "/readyz", headers={"x-cold": "1"})
    assert (ready.status_code, ready.json()["model"]) == (200, "m")
    assert (cold.status_code, cold.json()["error"]["message"]) == (503, "no model is loaded yet")
    assert (await _call("GET", "/livez", headers={"x-cold": "1"})).status_code == 200
