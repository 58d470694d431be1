"""Versions and aliases over HTTP: the same refusals as on the command line, with their statuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_lifespan import LifespanManager

from services.orchestrator.app import create_app
from understudy.schemas import TaskSpec
from understudy.versions import VersionsClient

pytestmark = pytest.mark.anyio

TASK = TaskSpec(kind="classification", labels=("bad", "good"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api(bench: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(bench.context.settings, lambda *_: None)
    async with LifespanManager(app) as manager:
        transport = httpx.ASGITransport(app=manager.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://orchestrator") as client:
            yield client


@pytest.fixture
def publish(bench: Any, tmp_path: Path) -> Callable[..., str]:
    def put(name: str, task: TaskSpec = TASK) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"name": name}))
        (folder / "task.json").write_text(task.model_dump_json())
        return str(bench.context.artifacts.publish("model", folder, {"role": "published", "job_id": "ftjob-a"}).id)

    return put


async def move(api: httpx.AsyncClient, what: str, alias: str = "production", **body: Any) -> httpx.Response:
    return await api.post(f"/v1/models/{alias}/{what}", json=body)


async def test_an_alias_is_promoted_shown_and_rolled_back(
    api: httpx.AsyncClient, bench: Any, publish: Callable[..., str]
) -> None:
    a, b = publish("a"), publish("b")
    for version in (a, b):
        answer = await move(api, "promote", model=version)
        assert (answer.status_code, answer.json()["artifact"]) == (200, version)
    assert [one["aliases"] for one in (await api.get("/v1/versions")).json()["data"] if one["id"] == b] == [
        ["production"]
    ]
    shown = (await api.get("/v1/versions/production")).json()
    assert (shown["id"], shown["alias"], shown["job"], shown["back"]) == (b, "production", "ftjob-a", [a])
    assert (await move(api, "rollback")).json()["artifact"] == a
    assert (await api.get("/v1/models/production")).json()["artifact"] == a
    assert [one["how"] for one in (await api.get("/v1/versions/production")).json()["history"]] == [
        "promote",
        "promote",
        "rollback",
    ]
    assert (await api.post("/v1/models/production/rollback")).status_code == 409  # a body is not needed
    assert bench.context.artifacts.resolve("production") == a


async def test_what_is_refused_has_its_status_and_names_its_field(
    api: httpx.AsyncClient, bench: Any, publish: Callable[..., str]
) -> None:
    a, b, other = publish("a"), publish("b"), publish("c", TaskSpec(kind="generation"))
    await move(api, "promote", model=a)
    (Path(bench.context.artifacts.root) / b / "config.json").write_text("{}")
    refused = [
        (await move(api, "promote", model="model-" + "0" * 24), 404, "model"),
        (await move(api, "promote", model="../../etc/passwd"), 404, "model"),
        (await move(api, "promote", model=b), 500, None),
        (await move(api, "promote", model=other), 409, "model"),
        (await move(api, "promote", model=a, expected=b), 409, "expected"),
        (await move(api, "promote", alias="a b", model=a), 400, "alias"),
        (await move(api, "promote", alias=a, model=a), 400, "alias"),
        (await move(api, "promote", model=a, modle=b), 400, "modle"),
        (await move(api, "promote"), 400, "model"),
        (await move(api, "rollback"), 409, "alias"),
        (await move(api, "rollback", alias="nothing"), 404, "model"),
        (await api.get("/v1/versions/nothing"), 404, "model"),
    ]
    for answer, status, param in refused:
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    assert (await move(api, "promote", model=other, force=True)).status_code == 200
    assert [one.artifact for one in bench.context.artifacts.moves.history("production")] == [a, other]


async def test_promotes_at_once_leave_one_winner_and_a_whole_history(
    api: httpx.AsyncClient, bench: Any, publish: Callable[..., str]
) -> None:
    first, *others = [publish(str(number)) for number in range(9)]
    await move(api, "promote", model=first)
    answers = await asyncio.gather(*(move(api, "promote", model=one, expected=first) for one in others))
    won = [answer.json()["artifact"] for answer in answers if answer.status_code == 200]
    assert [answer.status_code for answer in answers].count(409) == len(others) - 1
    history = bench.context.artifacts.moves.history("production")
    assert [one.artifact for one in history] == [first, *won]
    assert bench.context.artifacts.resolve("production") == won[0]


async def test_the_command_lines_client_speaks_the_same(
    bench: Any, publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.testclient import TestClient

    a, b = publish("a"), publish("b")
    with TestClient(create_app(bench.context.settings, lambda *_: None)) as http:
        client = VersionsClient("http://testserver")
        monkeypatch.setattr(client, "_http", http)
        assert client.promote("production", a, by=None).artifact == a
        assert client.promote("production", b, by=None, expected=a).before == a
        assert client.rollback("production", by=None).artifact == a
        assert client.show("production").id == a
        assert {one.id for one in client.all()} == {a, b}
