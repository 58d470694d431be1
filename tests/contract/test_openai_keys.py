"""The stock `openai` client with API keys, against the real service on a real port: its errors, uploads and streams."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import openai
import pytest
from stand.bench import rows
from stand.keys import key_store
from stand.server import DISTIL, Server

from services.orchestrator.keys import KeyStore, Quotas
from services.orchestrator.settings import Settings
from understudy.client import OrchestratorClient
from understudy.errors import MissingScope, QuotaExceeded, RateLimited, Unauthorized
from understudy.keys import Scope


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("keys")
    return Settings(home=home, broker_url="redis+socket:///nowhere/redis.sock", sweep_seconds=0.2)


@pytest.fixture(scope="module")
def keys(settings: Settings) -> Iterator[KeyStore]:
    with key_store(settings) as store:
        store.create("the first", "admin")
        yield store


@pytest.fixture(scope="module")
def server(settings: Settings, keys: KeyStore) -> Iterator[Server]:
    del keys  # the first is there before the service starts
    one = Server(settings)
    yield one
    one.stop()


class Counted(httpx.HTTPTransport):
    """The network, and how many requests went over it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.sent += 1
        return super().handle_request(request)


def new_key(keys: KeyStore, scope: Scope = "submit", **quotas: int) -> str:
    return keys.create("a test", scope, quotas=Quotas(**quotas))[1]


Stock = Callable[[str], openai.OpenAI]


@pytest.fixture
def stock(server: Server) -> Iterator[Stock]:
    """The client as anybody has it, with a key."""
    with ExitStack() as closing:
        yield lambda key: closing.enter_context(openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0))


def make_job(client: openai.OpenAI) -> str:
    file = client.files.create(file=("rows.jsonl", rows(60).encode()), purpose="fine-tune")
    model = "scratch:bert-1x16"
    return client.fine_tuning.jobs.create(model=model, training_file=file.id, method=DISTIL).id  # type: ignore[arg-type]


def test_a_key_that_is_none_is_an_authentication_error(stock: Stock, keys: KeyStore) -> None:
    made, key = keys.create("revoked", "admin")
    keys.revoke(made.id)
    for wrong in ("none", "sk-us-" + "0" * 43, key):
        with pytest.raises(openai.AuthenticationError) as caught:
            stock(wrong).models.list()
        assert caught.value.code == "unauthorized"
        assert wrong not in str(caught.value)


def test_a_key_for_less_is_a_permission_error_that_names_the_scope(stock: Stock, keys: KeyStore) -> None:
    reader, submitter = stock(new_key(keys, "read")), stock(new_key(keys, "submit"))
    assert list(reader.files.list()) == []
    with pytest.raises(openai.PermissionDeniedError, match="scope 'submit', and this one has 'read'") as caught:
        reader.files.create(file=("rows.jsonl", rows(60).encode()), purpose="fine-tune")
    assert (caught.value.code, caught.value.type) == ("missing_scope", "invalid_request_error")
    with pytest.raises(openai.PermissionDeniedError, match="scope 'admin'"):
        submitter.models.delete("model-none")
    with pytest.raises(openai.NotFoundError):
        submitter.models.retrieve("model-none")


def test_a_whole_visit_with_one_key(stock: Stock, keys: KeyStore) -> None:
    client = stock(new_key(keys))
    job_id = make_job(client)
    assert client.fine_tuning.jobs.retrieve(job_id).status == "validating_files"
    assert client.fine_tuning.jobs.pause(job_id).status == "paused"
    assert client.fine_tuning.jobs.resume(job_id).status in ("queued", "validating_files", "running")
    with client.fine_tuning.jobs.with_streaming_response.list_events(
        job_id, extra_headers={"Accept": "text/event-stream"}
    ) as answer:
        assert client.fine_tuning.jobs.cancel(job_id).status == "cancelled"
        lines = list(answer.iter_lines())
    assert "event: done" in lines
    file_id = client.fine_tuning.jobs.retrieve(job_id).training_file
    assert client.files.content(file_id).text == rows(60)
    assert client.files.delete(file_id).deleted


def test_a_quota_is_a_rate_limit_error_that_the_client_does_not_try_again(server: Server, keys: KeyStore) -> None:
    network = Counted()
    key = new_key(keys, max_active_jobs=1, max_stored_bytes=len(rows(60)) + 100)
    with httpx.Client(transport=network) as http:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=2, http_client=http)
        job_id = make_job(client)
        sent = network.sent
        with pytest.raises(openai.RateLimitError) as caught:
            client.fine_tuning.jobs.create(model="scratch:bert-1x16", training_file=_file_of(client, job_id))
        assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
        with pytest.raises(openai.RateLimitError) as caught:
            client.files.create(file=("rows.jsonl", rows(60).encode()), purpose="fine-tune")
        assert (caught.value.code, caught.value.param) == ("insufficient_quota", "file")
        assert network.sent == sent + 3  # the retrieve, and each of the two once
        mine = [one.id for one in client.fine_tuning.jobs.list() if one.training_file == _file_of(client, job_id)]
        assert mine == [job_id]
        client.fine_tuning.jobs.cancel(job_id)
        client.files.delete(_file_of(client, job_id))
        make_job(client)


def _file_of(client: openai.OpenAI, job_id: str) -> str:
    return client.fine_tuning.jobs.retrieve(job_id).training_file


def test_the_jobs_of_a_day_say_when_there_is_room_again(stock: Stock, keys: KeyStore) -> None:
    client = stock(new_key(keys, max_jobs_per_day=1))
    job_id = make_job(client)
    client.fine_tuning.jobs.cancel(job_id)
    with pytest.raises(openai.RateLimitError) as caught:
        make_job(client)
    assert 86_000 < int(caught.value.response.headers["retry-after"]) <= 86_400


def test_fifty_clients_with_one_key_and_a_quota_of_three_make_three_jobs(stock: Stock, keys: KeyStore) -> None:
    key = new_key(keys, max_active_jobs=3)
    file = stock(key).files.create(file=("rows.jsonl", rows(60).encode()), purpose="fine-tune")
    made: list[str] = []
    refused: list[str | None] = []

    def submit(client: openai.OpenAI) -> None:
        try:
            made.append(client.fine_tuning.jobs.create(model="scratch:bert-1x16", training_file=file.id).id)
        except openai.RateLimitError as error:
            refused.append(error.code)

    client = stock(key)
    threads = [threading.Thread(target=submit, args=(client,)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), refused) == (3, ["rate_limit_exceeded"] * 47)
    assert {one.id for one in client.fine_tuning.jobs.list(limit=100) if one.training_file == file.id} == set(made)


def test_our_own_client_raises_the_same_errors_by_our_names(
    server: Server, stock: Stock, keys: KeyStore, tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(rows(60))
    with OrchestratorClient(server.url) as client, pytest.raises(Unauthorized, match="needs an API key"):
        client.jobs()
    with OrchestratorClient(server.url, api_key=new_key(keys, "read")) as client, pytest.raises(MissingScope):
        client.upload(data)
    key = new_key(keys, max_stored_bytes=10, max_active_jobs=0)
    with OrchestratorClient(server.url, api_key=key) as client:
        with pytest.raises(QuotaExceeded, match="may store 10 bytes"):
            client.upload(data)
        job = {"model": "scratch:bert-1x16", "training_file": stock_file(stock, keys)}
        with pytest.raises(RateLimited, match="0 jobs"):
            client.create_job(job)
        assert client.ready()


def stock_file(stock: Stock, keys: KeyStore) -> str:
    client = stock(new_key(keys))
    return client.files.create(file=("rows.jsonl", rows(60).encode()), purpose="fine-tune").id


def test_a_refused_error_is_openais_object_in_every_field(server: Server, stock: Stock, keys: KeyStore) -> None:
    headers = {"Authorization": f"Bearer {new_key(keys, max_jobs_per_day=0)}"}
    body = {"model": "scratch:bert-1x16", "training_file": stock_file(stock, keys)}
    answer = httpx.post(f"{server.url}/v1/fine_tuning/jobs", json=body, headers=headers)
    assert json.loads(answer.text) == {
        "error": {
            "message": "this key may make no jobs",
            "type": "insufficient_quota",
            "param": None,
            "code": "insufficient_quota",
        }
    }
    assert answer.headers["x-request-id"]
