"""Every route behind its scope, over real HTTP; and what a stranger may try with a header, an address or a browser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from stand.keys import key_store
from stand.server import Server

from services.orchestrator import access, follow
from services.orchestrator.access import SCOPES as SCOPE_OF
from services.orchestrator.access import check_scopes
from services.orchestrator.keys import KeyStore, Quotas
from services.orchestrator.settings import Settings
from understudy.keys import SCOPES, Scope

JOBS = "/v1/fine_tuning/jobs"
OPEN = {"/livez", "/readyz", "/metrics"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[[Path], Settings]) -> Settings:
    return make_settings(tmp_path_factory.mktemp("guarded"))


@pytest.fixture(scope="module")
def keys(shared: Settings) -> Iterator[KeyStore]:
    with key_store(shared) as store:
        yield store


@pytest.fixture(scope="module")
def key_of(keys: KeyStore) -> dict[Scope, str]:
    return {scope: keys.create(f"for {scope}", scope)[1] for scope in SCOPES}


@pytest.fixture(scope="module")
def guarded(shared: Settings, key_of: dict[Scope, str]) -> Iterator[Server]:
    del key_of  # there before the service starts
    one = Server(shared)
    yield one
    one.stop()


@pytest.fixture
def server(guarded: Server) -> Server:
    """A service with a key of each scope, and a client that sends none by itself."""
    guarded.http.headers.pop("authorization", None)
    return guarded


@pytest.fixture(scope="module")
def open_server(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[[Path], Settings]
) -> Iterator[Server]:
    """Without keys, as `understudy up` starts it."""
    one = Server(make_settings(tmp_path_factory.mktemp("open")))
    one.app.state.this_machine_only = True
    yield one
    one.stop()


def ask(server: Server, method: str, path: str, key: str | None = None, **options: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return server.http.request(method, path, headers=headers | options.pop("headers", {}), **options)


def test_every_route_of_the_document_asks_for_its_scope_before_anything_else(
    server: Server, key_of: dict[Scope, str]
) -> None:
    document = server.app.openapi()["paths"]
    routes = {(method.upper(), path) for path, methods in document.items() for method in methods if path not in OPEN}
    assert routes == set(SCOPE_OF), "give each route a scope in services/orchestrator/access.py"
    for method, path in sorted(routes):
        place = re.sub(r"\{\w+\}", "nothing", path)
        assert ask(server, method, place).status_code == 401, (method, path)
        assert ask(server, method, place, "sk-us-" + "x" * 43).status_code == 401, (method, path)
        needed = SCOPES.index(SCOPE_OF[method, path])
        for index, scope in enumerate(SCOPES):
            answer = ask(server, method, place, key_of[scope])
            assert (answer.status_code == 403) == (index < needed), (method, path, scope)
            if index < needed:
                assert answer.json()["error"]["code"] == "missing_scope"
            else:  # it went on to the route, which knows no such thing or wants a body
                assert answer.status_code != 401
    for path in OPEN:
        assert ask(server, "GET", path).status_code == 200


def test_an_application_with_a_route_without_a_scope_does_not_start() -> None:
    router = APIRouter()

    @router.get("/v1/new")
    def new() -> None: ...

    with pytest.raises(RuntimeError, match=r"/v1/new has no scope: add it to services\.orchestrator\.access\.SCOPES"):
        check_scopes([router])


@pytest.mark.parametrize("path", ["/nowhere", "/docs", "/openapi.json", "/v1/files/", "/v1/fine_tuning/jobs/x/nothing"])
def test_what_is_no_route_tells_nothing_without_a_key(server: Server, key_of: dict[Scope, str], path: str) -> None:
    assert ask(server, "GET", path).status_code == 401
    assert ask(server, "GET", path, key_of["read"]).status_code in (200, 307, 404)


@pytest.mark.parametrize(
    "authorization",
    [
        b"",
        b"Bearer",
        b"Basic sk-us-x",
        "Bearer schlüssel".encode(),
        "Bearer schlüssel".encode("latin-1"),
        b"Bearer \xff\xfe",
        b"Bearer " + b"k" * 40_000,
        b"Bearer sk-us-" + b"x" * 43 + b" more",
        b"Bearer sk-us-' OR 1=1 --",
        b"Bearer %s%s%n{}",
    ],
)
def test_what_is_no_key_is_one_plain_401(
    server: Server, authorization: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = ask(server, "GET", JOBS, headers={"Authorization": authorization})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["error"]["code"] == "unauthorized"
    words = capsys.readouterr()
    for part in (b"schl", b"kkkk", b"OR 1=1", b"%s%s"):
        assert part.decode() not in answer.text + words.out + words.err


def test_a_key_counts_in_its_header_alone_and_stands_in_no_log(
    server: Server, key_of: dict[Scope, str], capsys: pytest.CaptureFixture[str]
) -> None:
    key = key_of["admin"]
    for name in ("key", "api_key", "api-key", "access_token", "token"):
        assert ask(server, "POST", JOBS, params={name: key}).status_code == 401
    assert ask(server, "GET", JOBS, headers={"x-api-key": key, "cookie": f"key={key}"}).status_code == 401
    two = [("Authorization", f"Bearer {key}"), ("Authorization", "Bearer other")]
    assert server.http.get(JOBS, headers=two).status_code == 401
    assert ask(server, "POST", JOBS, key, json={}).status_code == 400
    words, deadline = "", time.monotonic() + 30
    while "status=400" not in words:  # the line is written when the answer is out
        assert time.monotonic() < deadline
        words += "".join(capsys.readouterr())
    assert key not in words


def test_a_revoked_key_is_shut_out_within_seconds_also_from_a_stream(
    server: Server, keys: KeyStore, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "FRESH_SECONDS", 0.2)
    monkeypatch.setattr(follow, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.05)
    made, key = keys.create("to be revoked", "submit")
    server.http.headers["authorization"] = f"Bearer {key}"
    job = server.create(training_file=server.upload(rows(60)).json()["id"]).json()
    with server.http.stream("GET", f"{JOBS}/{job['id']}/events", headers={"accept": "text/event-stream"}) as answer:
        lines = answer.iter_lines()
        assert "Job created" in next(line for line in lines if line.startswith("data: "))
        keys.revoke(made.id)
        left = list(lines)  # it ends
    assert not any(line == "event: done" for line in left)
    deadline = time.monotonic() + 30
    while server.http.get(JOBS).status_code != 401:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_key_costs_the_database_one_look_in_three_seconds(
    server: Server, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = keys.create("seen for the first time", "read")
    looks: list[str] = []
    find = KeyStore.find
    monkeypatch.setattr(KeyStore, "find", lambda self, key: (looks.append(key), find(self, key))[1])
    monkeypatch.setattr(access, "FRESH_SECONDS", 1000.0)
    for _ in range(5):
        assert ask(server, "GET", JOBS, key).status_code == 200
    assert len(looks) == 1
    ask(server, "GET", JOBS, "sk-somebody-elses")  # of another shape: not looked for
    assert len(looks) == 1


def test_keys_of_the_settings_may_do_all_beside_those_of_the_database(
    shared: Settings, key_of: dict[Scope, str]
) -> None:
    one = Server(shared.model_copy(update={"api_keys": ("static one",)}))
    try:
        assert ask(one, "DELETE", "/v1/models/model-none", "static one").status_code == 404
        assert ask(one, "DELETE", "/v1/models/model-none", key_of["submit"]).status_code == 403
        assert ask(one, "GET", JOBS, "static two").status_code == 401
    finally:
        one.stop()


def test_two_keys_do_not_share_idempotency_keys_and_one_key_does_however_it_is_written(
    server: Server, keys: KeyStore, rows: Any
) -> None:
    one, two = (keys.create(name, "submit")[1] for name in ("one", "two"))
    server.http.headers["authorization"] = f"Bearer {one}"
    file_id = server.upload(rows(60)).json()["id"]
    first = server.create(key="a", training_file=file_id)
    server.http.headers["authorization"] = f"bearer   {one}"
    assert server.create(key="a", training_file=file_id).content == first.content
    server.http.headers["authorization"] = f"Bearer {two}"
    assert server.create(key="a", training_file=file_id).json()["id"] != first.json()["id"]


def test_a_submit_that_a_quota_refuses_leaves_its_idempotency_key_free(
    server: Server, keys: KeyStore, rows: Any
) -> None:
    server.http.headers["authorization"] = f"Bearer {_bounded(keys)}"
    file_id = server.upload(rows(60)).json()["id"]
    first = server.create(key="a", training_file=file_id).json()
    refused = server.create(key="b", training_file=file_id)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert refused.headers["x-should-retry"] == "false"
    assert server.create(key="a", training_file=file_id).json() == first  # a replay is no other job
    server.http.post(f"{JOBS}/{first['id']}/cancel")
    made = server.create(key="b", training_file=file_id)
    assert (made.status_code, made.headers.get("idempotent-replayed")) == (200, None)


def _bounded(keys: KeyStore) -> str:
    return keys.create("bounded", "submit", quotas=Quotas(max_active_jobs=1))[1]


# --- without keys, on this machine -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "10.1.2.3:80", "a.localhost"]
)
def test_without_keys_an_address_or_localhost_is_asked(open_server: Server, host: str) -> None:
    assert ask(open_server, "GET", JOBS, headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "[::1", "a b"]
)
def test_without_keys_a_name_that_was_pointed_at_this_machine_is_refused(open_server: Server, host: str) -> None:
    answer = ask(open_server, "GET", JOBS, headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["param"]) == (403, "Host")
    assert ask(open_server, "GET", "/livez", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:3000", "http://localhost", "http://[::1"]
)
def test_without_keys_a_page_of_another_site_changes_nothing(open_server: Server, origin: str, rows: Any) -> None:
    there = ask(open_server, "GET", "/v1/files").json()["data"]
    refused = open_server.upload(rows(20), origin=origin)
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, "Origin")
    assert ask(open_server, "GET", "/v1/files").json()["data"] == there
    assert open_server.upload(rows(20), origin=open_server.url).status_code == 200  # the pages of /docs


def test_the_first_key_shuts_the_door_behind_a_service_that_runs(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "FRESH_SECONDS", 0.2)
    one = Server(settings)
    one.app.state.this_machine_only = True
    try:
        assert ask(one, "GET", JOBS, "none").status_code == 200
        with key_store(settings) as store:
            _, key = store.create("the first", "read")
        deadline = time.monotonic() + 30
        while ask(one, "GET", JOBS).status_code != 401:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert ask(one, "GET", JOBS, key).status_code == 200
        assert ask(one, "GET", JOBS, key, headers={"host": "understudy.example"}).status_code == 200
    finally:
        one.stop()


def test_without_keys_a_service_that_others_reach_serves_nobody(settings: Settings) -> None:
    one = Server(settings.model_copy(update={"host": "0.0.0.0"}))
    try:
        assert ask(one, "GET", JOBS).status_code == 401
    finally:
        one.stop()
