"""The forms of an answer, keys and metrics of the teacher, over HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from asgi_lifespan import LifespanManager

from services.teacher.app import create_app
from services.teacher.engine import Engine
from services.teacher.settings import Settings
from understudy.client import TeacherClient
from understudy.errors import InvalidRequest, Unauthorized, Unavailable
from understudy.models.passes import out_of_memory
from understudy.schemas import Attribution, AttributionExample, AttributionRequest, AttributionResponse
from understudy.testing import LABELS, SENTENCES

pytestmark = pytest.mark.anyio

Serve = Callable[..., Any]
MakeSettings = Callable[..., Settings]

BODY = {"examples": [{"id": str(i), "input": text} for i, text in enumerate(SENTENCES)]}
LINES = {"Accept": "application/x-ndjson"}


@asynccontextmanager
async def listening(settings: Settings, engine: Engine | None = None) -> AsyncIterator[str]:
    """The service behind a real server in this event loop; gives its address."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings, engine), port=0, log_config=None))
    running = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.005)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await running


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("Application/X-NDJSON; q=0.5, text/plain", "application/x-ndjson"),
        ("application/x-ndjson;q=0.2, application/json;q=0.8", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("text/html;q=0", "application/json"),
        ("image/png", "application/json"),
        ("text/html;q=high", "application/json"),
    ],
)
async def test_the_answer_has_the_form_that_the_caller_accepts(serve: Serve, accept: str, kind: str) -> None:
    async with serve() as client:
        answer = await client.post("/v1/attributions", json=BODY, headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == kind


async def test_lines_and_whole_are_the_same_results(serve: Serve) -> None:
    async with serve() as client:
        whole = AttributionResponse.model_validate((await client.post("/v1/attributions", json=BODY)).json())
        streamed = await client.post("/v1/attributions", json=BODY, headers=LINES)
    head, *found, end = [json.loads(line) for line in streamed.text.splitlines()]
    assert head["fingerprint"] == whole.fingerprint
    assert end == {"done": True, "completed": len(SENTENCES), "failed": 0}
    assert [Attribution.model_validate(line["result"]) for line in sorted(found, key=lambda line: line["index"])] == [
        *whole.results
    ]


async def test_tokens_are_told_of_a_model_that_writes_and_no_more_than_one_may_ask_for(serve: Serve) -> None:
    body = {"examples": [{"input": SENTENCES[0], "output": "rain and rain"}], "target": "gold", "model": "writer"}
    async with serve() as client:
        found = (await client.post("/v1/attributions", json=body | {"token_probabilities": 3})).json()["results"][0]
        many = await client.post("/v1/attributions", json=body | {"token_probabilities": 65})
        long = body | {"examples": [{"input": "a", "output": "b" * 99_000}] * 20, "token_probabilities": 64}
        bounded = await client.post("/v1/attributions", json=long)
        classified = body | {"model": "classifier", "examples": [{"input": "a", "output": LABELS[0]}]}
        refused = await client.post("/v1/attributions", json=classified | {"token_probabilities": 3})
    assert found["token_probabilities"][-1]["token"] == "</s>"
    assert all(len(place["probabilities"]) == 3 for place in found["token_probabilities"])
    for answer, status in ((many, 400), (bounded, 413), (refused, 400)):
        assert answer.status_code == status, answer.text
    assert many.json()["error"]["param"] == refused.json()["error"]["param"] == "token_probabilities"


async def test_a_wrong_request_for_lines_is_an_error_as_any_other(serve: Serve) -> None:
    async with serve() as client:
        answer = await client.post("/v1/attributions", json=BODY | {"method": "salience"}, headers=LINES)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "method"


async def test_the_page_shows_the_texts_and_where_they_come_from(serve: Serve) -> None:
    body = {"examples": [{"input": "<b>bold</b> and fine"}], "labels": LABELS}
    async with serve() as client:
        answer = await client.post("/v1/attributions", json=body, headers={"Accept": "text/html"})
        fingerprint = (await client.get("/v1/models/classifier")).json()["fingerprint"]
    assert "<b>bold" not in answer.text
    assert "bold" in answer.text
    assert fingerprint in answer.text


async def test_models_are_loaded_and_put_out_by_name(serve: Serve) -> None:
    async with serve(model=None) as client:
        await client.get("/v1/models/writer")
        assert len((await client.get("/v1/models")).json()["data"]) == 1
        assert (await client.delete("/v1/models/writer")).status_code == 204
        assert (await client.get("/v1/models")).json()["data"] == []
        again = await client.delete("/v1/models/writer")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "model_not_found")


async def test_the_client_reads_lines_as_they_come(settings: MakeSettings) -> None:
    examples = (
        *(AttributionExample(input=text, output="neutral") for text in SENTENCES),
        AttributionExample(input="x"),
    )
    request = AttributionRequest(examples=examples, target="gold")

    def read(url: str) -> None:
        with TeacherClient(url) as client:
            found = dict(client.stream(request))
            assert sorted(found) == list(range(len(examples)))
            assert isinstance(found[len(examples) - 1], InvalidRequest)
            assert found[len(examples) - 1].param == f"examples[{len(examples) - 1}].output"
            assert all(isinstance(found[i], Attribution) for i in range(len(SENTENCES)))
            with pytest.raises(InvalidRequest, match="exactly once"):
                next(client.stream(request.model_copy(update={"template": "no place"})))

    async with listening(settings()) as url:
        await asyncio.to_thread(read, url)


async def test_the_client_tells_an_answer_that_broke_off() -> None:
    def half(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text='{"model": "m"}\n')

    request = AttributionRequest(examples=(AttributionExample(input="x"),))
    with (
        TeacherClient("http://teacher", transport=httpx.MockTransport(half)) as client,
        pytest.raises(Unavailable, match="broke off"),
    ):
        list(client.stream(request))


async def test_the_client_brings_its_key(settings: MakeSettings) -> None:
    def ask(url: str) -> None:
        request = AttributionRequest(examples=(AttributionExample(input="x"),))
        with TeacherClient(url, api_key="sk-one") as client:
            assert client.attribute(request).results
            assert len(list(client.stream(request))) == 1
        with TeacherClient(url) as client:
            with pytest.raises(Unauthorized):
                client.attribute(request)
            with pytest.raises(Unauthorized):
                list(client.stream(request))
            while not client.ready():
                pass

    async with listening(settings(api_keys=("sk-one",))) as url:
        await asyncio.to_thread(ask, url)


async def test_health_of_every_protocol_and_metrics_need_no_key(serve: Serve) -> None:
    async with serve(api_keys=("sk-one",), model=None) as client:
        for path in ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"):
            assert (await client.get(path)).status_code == 200, path
        for path in ("/v1/models", "/v2", "/v2/models/classifier"):
            assert (await client.get(path)).status_code == 401, path
        assert (await client.get("/v1/models", headers={"Authorization": "Bearer sk-one"})).status_code == 200


async def test_a_teacher_that_drains_is_ready_in_no_protocol_and_still_answers(settings: MakeSettings) -> None:
    app = create_app(settings(drain_seconds=5))
    async with LifespanManager(app) as manager:
        transport = httpx.ASGITransport(app=manager.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://teacher") as client:
            await client.get("/v1/models/classifier")
            app.state.draining = True
            for path in ("/readyz", "/v2/health/ready"):
                assert (await client.get(path)).status_code == 503, path
            answer = await client.post("/v1/attributions", json=BODY)
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")


async def test_the_work_of_a_client_that_left_is_dropped(settings: MakeSettings) -> None:
    release, seen = threading.Event(), []

    class Held(Engine):
        def explain(self, *args: Any) -> Any:
            seen.append([example.input for example in args[-1]])
            assert release.wait(10)
            return super().explain(*args)

    async with (
        listening(settings(), Held(settings())) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as client,
        httpx.AsyncClient(base_url=url, timeout=30) as leaver,
    ):
        first = asyncio.create_task(client.post("/v1/attributions", json={"examples": [{"input": "first"}]}))
        while not seen:
            await asyncio.sleep(0.01)
        gone = asyncio.create_task(leaver.post("/v1/attributions", json={"examples": [{"input": "gone"}]}))
        while "understudy_queue_examples 2.0" not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.01)
        gone.cancel()
        while "understudy_queue_examples 1.0" not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.01)
        release.set()
        assert (await first).status_code == 200
    assert seen == [["first"]]


async def test_metrics_tell_of_queue_batches_cache_and_models(serve: Serve) -> None:
    async with serve() as client:
        for _ in range(2):
            await client.post("/v1/attributions", json=BODY)
        text = (await client.get("/metrics")).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["understudy_examples_total"]) == len(SENTENCES)
    assert float(values['understudy_cache_lookups_total{result="hit"}']) == len(SENTENCES)
    assert float(values['understudy_cache_lookups_total{result="miss"}']) == len(SENTENCES)
    assert float(values["understudy_cache_bytes"]) > 1000
    assert float(values["understudy_models_loaded"]) == 1
    assert float(values["understudy_models_bytes"]) > 1000
    assert float(values["understudy_queue_examples"]) == 0
    assert float(values["understudy_batch_examples_count"]) >= 1
    assert float(values["understudy_batches_out_of_memory_total"]) == out_of_memory.value
    assert values['understudy_http_requests_total{method="POST",route="/v1/attributions",status="200"}'] == "2.0"


async def test_without_keys_a_page_of_another_site_cannot_have_a_model_loaded(settings: MakeSettings) -> None:
    app = create_app(settings(model=None))
    app.state.this_machine_only = True
    async with LifespanManager(app) as manager:
        transport = httpx.ASGITransport(app=manager.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as http:
            for path in ("/v1/models/writer", "/v2/models/writer", "/v2/models/writer/versions/1"):
                answer = await http.get(path, headers={"Sec-Fetch-Site": "cross-site"})
                assert answer.status_code == 403, path
            assert (await http.get("/v1/models")).json()["data"] == []
            assert (await http.get("/v1/models/writer")).json()["id"] == "writer"
