"""The edge that all services share, through a real application with two routes of its own."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from asgi_lifespan import LifespanManager
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse
from prometheus_client.parser import text_string_to_metric_families

from understudy.errors import InvalidRequest, Overloaded, Unavailable
from understudy.keys import Keys
from understudy.schemas import AttributionRequest
from understudy.web import make_app


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield


async def _ready(request: Request) -> Mapping[str, Any]:
    if request.headers.get("x-cold"):
        raise Unavailable("no model is loaded yet")
    return {"model": "m"}


def _app(**options: Any) -> FastAPI:
    app = make_app("test", description="", lifespan=_lifespan, ready=_ready, max_body=2_000, **options)

    @app.post("/attributions")
    async def attributions(body: AttributionRequest) -> dict[str, int]:
        return {"examples": len(body.examples)}

    @app.get("/busy")
    async def busy() -> None:
        raise Overloaded("full", retry_after=12.4)

    @app.get("/broken")
    async def broken() -> None:
        raise KeyError("a secret path")

    @app.get("/things/{name}")
    async def thing(name: str) -> str:
        return name

    @app.get("/idle")
    async def idle() -> str:
        return await slow({})

    @app.post("/slow")
    async def slow(_: dict[str, Any]) -> str:
        try:
            seen.append("began")
            await asyncio.sleep(10)
            seen.append("ended")
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return "done"

    @app.post("/after")
    async def after(tasks: BackgroundTasks) -> str:
        async def rest() -> None:
            await asyncio.sleep(0.05)
            seen.append("rest")

        tasks.add_task(rest)
        return "answered"

    @app.post("/half")
    async def half() -> StreamingResponse:
        async def lines() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"line" * 1000
                    await asyncio.sleep(0.001)
            finally:
                seen.append("closed")

        return StreamingResponse(lines())

    seen: list[str] = []
    app.state.seen = seen
    return app


@asynccontextmanager
async def _client(**options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with LifespanManager(_app(**options)) as manager:
        transport = httpx.ASGITransport(app=manager.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


async def _call(method: str, path: str, **options: Any) -> httpx.Response:
    async with _client() as client:
        return await client.request(method, path, **options)


@asynccontextmanager
async def _listening(app: FastAPI) -> AsyncIterator[int]:
    """The application behind a real server in this event loop; gives the port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    running = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.005)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await running


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


_BARE = b"GET %s HTTP/1.1\r\nHost: test\r\n\r\n"
_RAW = b"POST %s HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


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
        ({"examples": [{"input": "x"}], "target": "silver"}, "target", "'predicted' or 'label'"),
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


async def test_a_service_that_drains_is_not_ready_and_closes_its_connections() -> None:
    app = _app()
    async with LifespanManager(app) as manager:
        transport = httpx.ASGITransport(app=manager.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert "connection" not in (await client.get("/livez")).headers
            app.state.draining = True
            live, ready = await client.get("/livez"), await client.get("/readyz")
    assert (live.status_code, live.headers["connection"]) == (200, "close")
    assert ready.status_code == 503
    assert "shutting down" in ready.json()["error"]["message"]


@pytest.mark.parametrize(("raw", "path"), [(_RAW, b"/slow"), (_BARE, b"/idle"), (_RAW, b"/half")])
async def test_work_for_a_client_that_left_is_cancelled(raw: bytes, path: bytes) -> None:
    app = _app(cancel=True)
    async with _listening(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw % path)
        if path == b"/half":
            await reader.readexactly(2000)
        else:
            await _until(lambda: app.state.seen == ["began"])
        writer.close()
        await _until(lambda: app.state.seen[-1:] in (["cancelled"], ["closed"]))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert (await client.get("/livez")).status_code == 200
            text = (await client.get("/metrics")).text
    assert [key[2] for key in _counts(text) if key[1] == path.decode()] == ["499"]


async def test_what_a_service_does_after_its_answer_is_not_cancelled() -> None:
    app = _app(cancel=True)
    async with _listening(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_RAW % b"/after")
        await reader.readuntil(b"answered")
        writer.close()
        await _until(lambda: app.state.seen == ["rest"])


async def test_without_the_option_the_work_goes_on() -> None:
    app = _app()
    async with _listening(app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_RAW % b"/slow")
        await _until(lambda: app.state.seen == ["began"])
        writer.close()
        await asyncio.sleep(0.05)
        assert app.state.seen == ["began"]
        for task in asyncio.all_tasks():
            if "run_asgi" in repr(task.get_coro()):
                task.cancel()


async def test_a_kept_connection_serves_one_request_after_the_other_where_work_may_be_cancelled() -> None:
    async with (
        _listening(_app(cancel=True)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        for _ in range(20):
            answer = await client.post("/attributions", json={"examples": [{"input": "x"}]})
            assert answer.json() == {"examples": 1}


def _counts(text: str) -> dict[tuple[str, str, str], float]:
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for sample in families["understudy_http_requests"].samples
        if sample.name.endswith("_total")
    }


async def test_metrics_count_requests_by_the_route_and_never_by_the_address() -> None:
    async with _client() as client:
        for path in ("/things/a", "/things/b", "/nowhere/1", "/nowhere/2", "/busy", "/broken"):
            await client.get(path)
        await client.request("BREW", "/things/a")
        await client.post("/attributions", content=b"x" * 3_000)
        text = (await client.get("/metrics")).text
    assert _counts(text) == {
        ("GET", "/things/{name}", "200"): 2,
        ("GET", "(none)", "404"): 2,
        ("GET", "/busy", "429"): 1,
        ("GET", "/broken", "500"): 1,
        ("other", "/things/{name}", "405"): 1,
        ("POST", "(none)", "413"): 1,
    }
    assert 'understudy_http_request_seconds_count{method="GET",route="/things/{name}"} 2.0' in text
    assert "understudy_http_requests_open 1.0" in text  # the one that asked
    assert "process_resident_memory_bytes" in text


async def test_two_applications_of_one_process_count_apart() -> None:
    async with _client() as one, _client() as other:
        await one.get("/things/a")
        assert ("GET", "/things/{name}", "200") not in _counts((await other.get("/metrics")).text)


KEY = "sk-one"
DIGEST = "sha256:" + hashlib.sha256(b"sk-two").hexdigest()


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({"Authorization": "Bearer sk-one"}, 200),
        ({"Authorization": "bearer sk-two"}, 200),
        ({}, 401),
        ({"Authorization": "Bearer sk-three"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Basic sk-one"}, 401),
        ({"Authorization": f"Bearer {DIGEST}"}, 401),
        ({"Authorization": "Bearer sk-one sk-two"}, 401),
        ({"Authorization": "Bearer ké".encode()}, 401),
    ],
)
async def test_a_key_opens_the_service(header: dict[str, Any], status: int) -> None:
    async with _client(api_keys=[KEY, DIGEST]) as client:
        answer = await client.get("/things/a", headers=header)
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["error"]["code"] == "unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "sk-" not in answer.text


async def test_a_key_is_needed_before_anything_is_told() -> None:
    async with _client(api_keys=[KEY], open_paths=["/things/open"]) as client:
        assert (await client.get("/nowhere")).status_code == 401
        assert (await client.post("/attributions", content=b"x" * 3_000)).status_code == 401
        assert (await client.get("/things/open")).status_code == 200


@pytest.mark.parametrize(
    ("related", "status"), [(None, 200), ("none", 200), ("same-origin", 200), ("same-site", 403), ("cross-site", 403)]
)
async def test_without_keys_a_page_of_another_site_may_read_but_not_ask_for_what_does_more(
    related: str | None, status: int
) -> None:
    app = _app(acting=("/things/",))
    app.state.this_machine_only = True
    headers = {"Sec-Fetch-Site": related} if related else {}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001", headers=headers) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/openapi.json")).status_code == 200
        answer = await client.get("/things/a")
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["param"] == "Sec-Fetch-Site"


def test_a_digest_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="64 hex digits"):
        Keys(["sha256:abc"])


async def test_a_defect_shows_no_key_though_its_traceback_shows_variables(capsys: pytest.CaptureFixture[str]) -> None:
    async with _client(api_keys=[KEY]) as client:
        answer = await client.get("/broken", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 500
    said = capsys.readouterr().out
    assert "locals" in said
    assert KEY not in said


async def test_a_defect_has_the_request_id_and_the_log_has_its_cause(capsys: pytest.CaptureFixture[str]) -> None:
    answer = await _call("GET", "/broken", headers={"x-request-id": "abc-2"})
    assert answer.headers["x-request-id"] == "abc-2"
    assert "a secret path" in capsys.readouterr().out
