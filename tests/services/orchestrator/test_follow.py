"""The events of a job as a stream, on a real port: in order, resumed, alive while nothing happens, and ended."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from stand.server import Server

from services.orchestrator import follow
from services.orchestrator.jobs import Event
from services.orchestrator.settings import Settings
from services.orchestrator.store import add_event
from understudy.client import OrchestratorClient
from understudy.errors import InvalidRequest, KeyReused, NotFound, Unavailable
from understudy.testing import FakeTeacher

STREAM = {"accept": "text/event-stream"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.02)


@pytest.fixture
def server(settings: Settings, bench: Any) -> Iterator[Server]:
    del bench  # both work on the same database
    one = Server(settings.model_copy(update={"sweep_seconds": 60.0}))
    yield one
    one.stop()


def path(job: Any) -> str:
    return f"/v1/fine_tuning/jobs/{job.id}/events"


def parsed(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Each message of a stream by its fields, as the HTML standard reads them; a comment is `{"": text}`."""
    message: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            message[name] = value.removeprefix(" ")
        elif message:
            yield message
            message = {}


def told(messages: list[dict[str, str]]) -> list[str]:
    return [json.loads(one["data"])["message"] for one in messages if "data" in one and "event" not in one]


def read(server: Server, job: Any, **headers: str) -> list[dict[str, str]]:
    with server.http.stream("GET", path(job), headers=STREAM | headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(parsed(answer.iter_lines()))


def test_the_whole_story_comes_in_order_and_ends_with_the_job(server: Server, bench: Any) -> None:
    job = bench.submit()
    bench.context.jobs.add_event(job.id, Event(message="line one\nline two", data={"loss": 0.5}))
    bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))
    messages = read(server, job)
    assert told(messages) == ["Job created", "line one\nline two", "Job cancelled"]
    listed = server.http.get(path(job)).json()["data"]
    assert [one["id"] for one in messages if "id" in one] == [one["id"] for one in reversed(listed)] + [job.id]
    assert json.loads(messages[1]["data"]) == listed[-1]
    progress = [json.loads(one["data"]) for one in messages if one.get("event") == "progress"]
    assert [(one["phase"], one["status"]) for one in progress] == [("validate", "cancelled")]
    assert messages[-1]["event"] == "done"
    assert json.loads(messages[-1]["data"])["status"] == "cancelled"


def test_what_happens_while_somebody_listens_is_told_at_once(server: Server, bench: Any) -> None:
    job = bench.submit_items(2)
    with server.http.stream("GET", path(job), params={"stream": "true"}) as answer:
        messages = parsed(answer.iter_lines())
        assert next(messages) == {"retry": "2000"}
        assert told([next(messages)]) == ["Job created"]
        assert json.loads(next(messages)["data"])["completed"] == 0
        item = bench.context.leases.claim(bench.item_ids(job)[0], "a")
        bench.context.leases.complete(item, {}, 1)
        moments = (json.loads(message["data"]) for message in messages)  # the claim may be one of its own
        moment = next(moment for moment in moments if moment["completed"])
        assert (moment["completed"], moment["total"], moment["status"]) == (1, 2, "running")
        bench.context.jobs.add_event(job.id, Event(message="now"))
        assert told([next(messages)]) == ["now"]
        bench.context.flow.end(job.id, "cancelled", Event(message="over"))
        assert told(list(messages)) == ["over"]


def test_a_stream_goes_on_behind_the_last_event_that_was_seen(server: Server, bench: Any) -> None:
    job = bench.submit()
    for number in range(3):
        bench.context.jobs.add_event(job.id, Event(message=f"event {number}"))
    bench.context.flow.end(job.id, "cancelled", Event(message="over"))
    seen = next(one["id"] for one in read(server, job) if "event 0" in one.get("data", ""))
    assert told(read(server, job, **{"last-event-id": seen})) == ["event 1", "event 2", "over"]
    with server.http.stream("GET", path(job), params={"stream": "true", "after": seen}) as answer:
        assert told(list(parsed(answer.iter_lines()))) == ["event 1", "event 2", "over"]


def test_whoever_has_seen_the_end_is_told_to_stay_away(server: Server, bench: Any) -> None:
    job = bench.submit()
    bench.context.flow.end(job.id, "cancelled", Event(message="over"))
    answer = server.http.get(path(job), headers=STREAM | {"last-event-id": job.id})
    assert (answer.status_code, answer.content) == (204, b"")


def test_an_unknown_job_and_an_event_of_another_are_refused_before_a_stream_begins(server: Server, bench: Any) -> None:
    job, other = bench.submit(), bench.submit()
    (foreign,) = [one["id"] for one in server.http.get(path(other)).json()["data"]]
    assert server.http.get("/v1/fine_tuning/jobs/ftjob-none/events", headers=STREAM).status_code == 404
    for after in (foreign, "ftevent-none", job.id):
        answer = server.http.get(path(job), headers=STREAM | {"last-event-id": after})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")


def test_a_silent_stream_says_that_it_is_alive(server: Server, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "HEARTBEAT_SECONDS", 0.1)
    job = bench.submit()
    with server.http.stream("GET", path(job), headers=STREAM) as answer:
        messages = parsed(answer.iter_lines())
        assert [next(messages) for _ in range(5)][3:] == [{"": "ping"}] * 2


def test_a_story_longer_than_a_page_is_told_whole(server: Server, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PAGE", 2)
    job = bench.submit()
    for number in range(7):
        bench.context.jobs.add_event(job.id, Event(message=str(number)))
    bench.context.flow.end(job.id, "cancelled", Event(message="over"))
    assert told(read(server, job)) == ["Job created", *map(str, range(7)), "over"]


def test_several_listeners_hear_the_same_and_one_that_left_costs_nothing(server: Server, bench: Any) -> None:
    job = bench.submit()
    with server.http.stream("GET", path(job), headers=STREAM) as gone:
        next(gone.iter_bytes())
    started = threading.Barrier(5)

    def listen(_: int) -> list[str]:
        started.wait()
        return told(read(server, job))

    with ThreadPoolExecutor(4) as pool:
        heard = pool.map(listen, range(4))
        started.wait()
        for number in range(20):
            bench.context.jobs.add_event(job.id, Event(message=str(number)))
        bench.context.flow.end(job.id, "cancelled", Event(message="over"))
        assert {tuple(one) for one in heard} == {("Job created", *map(str, range(20)), "over")}
    for _ in range(100):
        gauges = server.http.get("/metrics").text.splitlines()
        if "understudy_http_requests_open 1.0" in gauges:  # the question itself
            return
        time.sleep(0.02)
    raise AssertionError("a stream outlives its client")


def test_more_streams_than_there_may_be_are_told_to_poll(
    server: Server, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "MOST_STREAMS", 1)
    job = bench.submit()
    with server.http.stream("GET", path(job), headers=STREAM) as first:
        chunks = first.iter_bytes()  # kept: the connection is closed with it
        next(chunks)
        answer = server.http.get(path(job), headers=STREAM)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # the place is free again as soon as the first has left
        with server.http.stream("GET", path(job), headers=STREAM) as again:
            if again.status_code == 200:
                return
    raise AssertionError("the place of a client that left is never given back")


def test_a_service_that_shuts_down_ends_its_streams(settings: Settings, bench: Any) -> None:
    server, job = Server(settings), bench.submit()
    with httpx.stream("GET", server.url + path(job), headers=STREAM, timeout=20) as answer:
        messages = parsed(answer.iter_lines())
        assert next(messages) == {"retry": "2000"}
        threading.Thread(target=server.stop).start()
        assert not [one for one in messages if one.get("event") == "done"]


# --- our own client ------------------------------------------------------------------------------------------------


def test_our_client_follows_a_job_to_its_end_and_goes_on_where_it_was(server: Server, bench: Any) -> None:
    job = bench.submit()
    bench.context.jobs.add_event(job.id, Event(message="in between", data={"step": 1}))
    bench.context.flow.end(job.id, "cancelled", Event(message="over"))
    with OrchestratorClient(server.url) as client:
        told = list(client.follow(job.id))
        assert [one["message"] for one in told] == ["Job created", "in between", "over"]
        assert list(client.follow(job.id, after=told[1]["id"])) == told[2:]
        with pytest.raises(NotFound, match="ftjob-none"):
            next(client.follow("ftjob-none"))


def test_our_client_says_when_a_stream_breaks_off(settings: Settings, bench: Any) -> None:
    server, job = Server(settings), bench.submit()
    with OrchestratorClient(server.url) as client:
        told = client.follow(job.id)
        assert next(told)["message"] == "Job created"
        threading.Thread(target=server.stop).start()
        with pytest.raises(Unavailable, match="before job"):
            list(told)


def test_our_client_submits_once_and_tries_out_first(server: Server, bench: Any, rows: Any) -> None:
    del bench
    job = {"model": "scratch:bert-1x16", "training_file": server.upload(rows(60)).json()["id"]}
    with OrchestratorClient(server.url) as client:
        assert client.create_job(job, key="k")["id"] == client.create_job(job, key="k")["id"]
        with pytest.raises(KeyReused):
            client.create_job(job | {"seed": 1}, key="k")
        with pytest.raises(InvalidRequest) as caught:
            client.dry_run(job | {"suffix": "no spaces"})
        assert caught.value.param == "suffix"


# --- the order in the store ----------------------------------------------------------------------------------------


def test_an_event_is_never_seen_before_one_with_a_smaller_number(
    settings: Settings, make_bench: Any, database_url: str
) -> None:
    """Or whoever has read the later one would never read the earlier one."""
    one = make_bench(settings.model_copy(update={"database_url": database_url}), FakeTeacher())
    job = one.submit()
    store = one.context.jobs
    second = threading.Thread(target=store.add_event, args=(job.id, Event(message="second")))
    with one.context.database.write() as sql:
        add_event(sql, job.id, Event(message="first"), time.time())
        second.start()
        second.join(0.3)  # it waits for the first
        assert [stored.event.message for stored in store.story(job.id, 0, 10)] == ["Job created"]
    second.join()
    assert [stored.event.message for stored in store.story(job.id, 0, 10)] == ["Job created", "first", "second"]
    one.context.close()
