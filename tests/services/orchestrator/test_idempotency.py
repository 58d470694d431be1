"""A request that is sent again: replayed, refused or waited for; one job however many ask, also after a crash."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from sqlalchemy import func, select
from stand.server import DISTIL, Server

from services.orchestrator.database import idempotency_keys, jobs
from services.orchestrator.idempotency import ABANDONED_SECONDS, KEPT_SECONDS, Idempotency, Replay, Ticket
from services.orchestrator.settings import Settings
from understudy.errors import Conflict, InvalidRequest, KeyReused
from understudy.testing import FakeTeacher

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def server(settings: Settings) -> Iterator[Server]:
    one = Server(settings)
    yield one
    one.stop()


@pytest.fixture
def file_id(server: Server, rows: Any) -> str:
    return str(server.upload(rows(80)).json()["id"])


@pytest.fixture
def bench(settings: Settings, database_url: str, make_bench: Any, clock: Any) -> Iterator[Any]:
    one = make_bench(settings.model_copy(update={"database_url": database_url}), FakeTeacher(), clock)
    yield one
    one.context.close()


def count(server: Server) -> int:
    return len(server.http.get(JOBS).json()["data"])


# --- over HTTP -----------------------------------------------------------------------------------------------------


def test_the_same_request_again_gets_the_first_answer_byte_for_byte(server: Server, file_id: str) -> None:
    first = server.create(key="a", training_file=file_id)
    server.http.post(f"{JOBS}/{first.json()['id']}/cancel")
    again = server.create(key="a", training_file=file_id)
    assert (again.status_code, again.content) == (200, first.content)
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    assert count(server) == 1


def test_the_order_of_a_bodys_fields_does_not_make_another_request(server: Server, file_id: str) -> None:
    body = {"model": "scratch:bert-1x16", "method": DISTIL, "training_file": file_id}
    turned = json.dumps(dict(reversed(body.items())), indent=3)
    headers = {"Idempotency-Key": "a", "content-type": "application/json"}
    first = server.http.post(JOBS, content=json.dumps(body), headers=headers)
    assert server.http.post(JOBS, content=turned, headers=headers).content == first.content


def test_another_request_under_the_key_is_422_and_names_the_header(server: Server, file_id: str) -> None:
    server.create(key="a", training_file=file_id)
    answer = server.create(key="a", training_file=file_id, seed=7)
    assert answer.status_code == 422
    assert answer.json()["error"] | {"message": ""} == {
        "message": "",
        "type": "invalid_request_error",
        "param": "Idempotency-Key",
        "code": "idempotency_key_reused",
    }
    assert count(server) == 1


def test_another_key_or_none_makes_another_job(server: Server, file_id: str) -> None:
    server.create(key="a", training_file=file_id)
    server.create(key="b", training_file=file_id)
    body = {"model": "scratch:bert-1x16", "method": DISTIL, "training_file": file_id}
    assert [server.http.post(JOBS, json=body).status_code for _ in range(2)] == [200, 200]
    assert count(server) == 4


def test_callers_with_different_credentials_do_not_share_keys(server: Server, file_id: str) -> None:
    server.http.headers["authorization"] = "Bearer one"
    first = server.create(key="a", training_file=file_id)
    server.http.headers["authorization"] = "Bearer two"
    assert server.create(key="a", training_file=file_id, seed=5).json()["id"] != first.json()["id"]


def test_what_was_refused_did_nothing_and_its_key_may_be_used_again(server: Server, rows: Any) -> None:
    assert server.create(key="a", training_file="file-none").status_code == 404
    made = server.create(key="a", training_file=server.upload(rows(80)).json()["id"])
    assert (made.status_code, made.headers.get("idempotent-replayed")) == (200, None)


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\tin it"])
def test_a_key_that_is_none_is_400(server: Server, file_id: str, key: str) -> None:
    answer = server.create(key=key, training_file=file_id)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


def test_a_repeated_upload_is_one_file(server: Server, rows: Any) -> None:
    headers = {"Idempotency-Key": "a"}
    first, again = server.upload(rows(20), **headers), server.upload(rows(20), **headers)
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    assert server.upload(rows(21), **headers).status_code == 422
    assert len(server.http.get("/v1/files").json()["data"]) == 1
    assert server.http.get(f"/v1/files/{first.json()['id']}/content").text == rows(20)


def test_a_replay_survives_a_restart(settings: Settings, rows: Any) -> None:
    before = Server(settings)
    file_id = before.upload(rows(80)).json()["id"]
    first = before.create(key="a", training_file=file_id)
    before.stop()
    after = Server(settings)
    again = after.create(key="a", training_file=file_id)
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    after.stop()


def test_fifty_clients_that_submit_at_once_with_one_key_make_one_job(server: Server, file_id: str) -> None:
    """The stock client tries again by itself where it is told that the request is at work."""
    barrier = threading.Barrier(50)

    def submit(_: int) -> str:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=8) as client:
            barrier.wait()
            job = client.fine_tuning.jobs.create(
                model="scratch:bert-1x16",
                training_file=file_id,
                method=DISTIL,  # type: ignore[arg-type]
                extra_headers={"Idempotency-Key": "one"},
            )
            return job.id

    with ThreadPoolExecutor(50) as pool:
        ids = set(pool.map(submit, range(50)))
    assert len(ids) == 1
    assert count(server) == 1


# --- in the store --------------------------------------------------------------------------------------------------


def test_a_request_at_work_is_a_conflict_that_says_when_to_ask_again(bench: Any) -> None:
    once: Idempotency = bench.context.idempotency
    with once.request("POST /x", "a", "body") as turn:
        assert isinstance(turn, Ticket)
        with pytest.raises(Conflict, match="at work") as caught, once.request("POST /x", "a", "body"):
            raise AssertionError("it must not come this far")
        assert caught.value.retry_after == 1
        with pytest.raises(KeyReused), once.request("POST /x", "a", "another body"):
            raise AssertionError("it must not come this far")


def test_a_key_whose_process_died_is_taken_over_and_the_dead_one_can_no_longer_answer(bench: Any, clock: Any) -> None:
    once: Idempotency = bench.context.idempotency
    with once.request("POST /x", "a", "body") as slow:
        assert isinstance(slow, Ticket)
        clock.now += ABANDONED_SECONDS + 1
        with once.request("POST /x", "a", "body") as turn:
            assert isinstance(turn, Ticket)
            with bench.context.database.write() as sql:
                turn.answer(sql, 200, "mine")
        with pytest.raises(Conflict), bench.context.database.write() as sql:
            slow.answer(sql, 200, "late")
    with once.request("POST /x", "a", "body") as known:
        assert known == Replay(200, "mine")


def test_a_job_is_not_made_where_its_answer_cannot_be_kept(bench: Any) -> None:
    with pytest.raises(Conflict):
        bench.context.flow.submit(
            bench.job(), _one_item(), lambda sql: Ticket("POST /x", "a", "nobody's").answer(sql, 200, "{}")
        )
    with bench.context.database.read() as sql:
        assert sql.scalar(select(func.count()).select_from(jobs)) == 0


def test_a_key_is_forgotten_after_a_day_and_its_row_with_it(bench: Any, clock: Any) -> None:
    once: Idempotency = bench.context.idempotency
    with once.request("POST /x", "a", "body") as turn, bench.context.database.write() as sql:
        assert isinstance(turn, Ticket)
        turn.answer(sql, 200, "first")
    clock.now += KEPT_SECONDS - 1
    with once.request("POST /x", "a", "body") as known:
        assert known == Replay(200, "first")
    clock.now += 2
    with once.request("POST /x", "b", "body"):
        pass
    with bench.context.database.read() as sql:
        assert list(sql.scalars(select(idempotency_keys.c.key))) == ["b"]


def test_a_failure_gives_the_key_back(bench: Any) -> None:
    once: Idempotency = bench.context.idempotency

    def fail() -> None:
        with once.request("POST /x", "a", "body") as turn:
            assert isinstance(turn, Ticket)
            raise InvalidRequest("no")

    for _ in range(2):
        with pytest.raises(InvalidRequest):
            fail()


def _one_item() -> Any:
    from services.orchestrator.flow import Next
    from services.orchestrator.jobs import NewItem

    return Next("control", [NewItem()])
