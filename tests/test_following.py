"""A job followed by its stream: told at once, taken up again where it broke, and polled where there is no stream."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from understudy import following
from understudy.client import OrchestratorClient, Told
from understudy.errors import StageFailed, Unavailable
from understudy.following import Listener, brought_up_to_date
from understudy.jobs import watch

PLACE = "/v1/fine_tuning/jobs/ftjob-1"


def job(status: str = "running", phase: str = "train", completed: int = 0, state: str = "running") -> dict[str, Any]:
    progress = {"phase": phase, "completed": completed, "total": 9}
    return {"status": status, "phase": phase, "progress": progress, "phases": [{**progress, "state": state}]}


def event(number: int, **more: Any) -> str:
    return f"id: ftevent-{number}\ndata: {json.dumps({'id': f'ftevent-{number}', 'type': 'message', **more})}\n\n"


def progress(completed: int, status: str = "running", phase: str = "train") -> str:
    data = {"status": status, "phase": phase, "completed": completed, "total": 9}
    return f"event: progress\ndata: {json.dumps(data)}\n\n"


def done(status: str = "failed") -> str:
    return f"event: done\nid: ftjob-1\ndata: {json.dumps(job(status))}\n\n"


Part = str | Callable[[], Any]
"""A piece of a stream, or what happens between two: it may wait for a test, and it may raise."""


class Orchestrator:
    """Answers with `job`, and its streams one after the other; it knows what it was asked."""

    def __init__(self, *streams: list[Part]) -> None:
        self.job = job()
        self.asked: list[tuple[str, str | None]] = []
        self._streams = iter(streams)

    def client(self) -> OrchestratorClient:
        return OrchestratorClient("http://orchestrator", transport=httpx.MockTransport(self._answer))

    def looks(self) -> int:
        return sum(path == PLACE for path, _ in self.asked)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.url.path, request.headers.get("last-event-id")))
        if request.url.path == PLACE:
            return httpx.Response(200, json=self.job)
        parts = next(self._streams)
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=_told(request, parts))


def _told(request: httpx.Request, parts: list[Part]) -> Iterator[bytes]:
    yield b"retry: 2000\n\n: a comment\n\n"
    for part in parts:
        if callable(part):
            try:
                part()
            except ConnectionError as error:
                raise httpx.ReadError("broken", request=request) from error
        else:
            yield part.encode()


def breaks() -> None:
    raise ConnectionError


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RECONNECT_SECONDS", 0.01)


def followed(orchestrator: Orchestrator, show: Callable[[Any], None] = lambda _: None, **more: Any) -> None:
    with orchestrator.client() as client, pytest.raises(StageFailed):
        watch(client, "ftjob-1", show, **more)


def test_progress_is_shown_as_it_is_told_and_the_end_without_asking() -> None:
    shown: list[int] = []
    seen = threading.Event()

    def show(now: Any) -> None:
        shown.append(now["phases"][0]["completed"])
        if shown[-1] == 5:
            seen.set()

    # The end is told only when the progress was shown.
    orchestrator = Orchestrator([progress(3), progress(5), lambda: seen.wait(30), done()])
    followed(orchestrator, show, seconds=0.02)
    assert seen.is_set()
    assert orchestrator.job["phases"][0]["completed"] == 0  # so nobody had it from there


def test_a_stream_that_breaks_is_taken_up_behind_its_last_event() -> None:
    orchestrator = Orchestrator([event(1), event(2), progress(1), breaks], [breaks], [event(3), done()])
    followed(orchestrator, seconds=0.01)
    streams = [last for path, last in orchestrator.asked if path.endswith("/events")]
    assert streams == [None, "ftevent-2", "ftevent-2"]


def test_where_there_is_no_stream_the_job_is_asked_for() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == PLACE:
            asked.append(request.url.path)
            return httpx.Response(200, json=job("failed" if len(asked) == 4 else "running"))
        return httpx.Response(200, json={"object": "list", "data": []})  # a list, and no stream

    client = OrchestratorClient("http://orchestrator", transport=httpx.MockTransport(answer))
    with client, pytest.raises(StageFailed):
        watch(client, "ftjob-1", lambda _: None, seconds=0.01)
    assert len(asked) == 4


def test_who_follows_looks_after_the_stack_meanwhile() -> None:
    """The stream is silent until the check has run several times."""
    ran = threading.Semaphore(0)

    def silent() -> None:
        for _ in range(5):
            assert ran.acquire(timeout=30)

    orchestrator = Orchestrator([event(1), silent, done()])
    followed(orchestrator, check=ran.release, seconds=0.01)


def test_what_check_raises_ends_it_though_the_stream_is_silent() -> None:
    over = threading.Event()

    def check() -> None:
        raise Unavailable("the teacher ended with code 1 again and again")

    orchestrator = Orchestrator([event(1), lambda: over.wait(30), done()])
    with orchestrator.client() as client, pytest.raises(Unavailable, match="again and again"):
        watch(client, "ftjob-1", lambda _: None, check, seconds=0.01)
    over.set()


def test_a_listener_is_deaf_again_when_its_stream_is_over() -> None:
    orchestrator = Orchestrator([event(1), done()])
    with orchestrator.client() as client, Listener(client, "ftjob-1") as listener:
        names: list[str] = []
        while "done" not in names:
            names += [told.name for told in listener.heard(30)]
        listener._thread.join(30)
        assert names == ["message", "done"]
        assert listener.deaf


@pytest.mark.parametrize(
    ("heard", "known"),
    [
        ([], True),
        ([Told("progress", {"status": "running", "phase": "train", "completed": 4})], True),
        ([Told("message", {"type": "metrics"}, "ftevent-1")], True),
        ([Told("message", {"type": "message"}, "ftevent-1")], False),
        ([Told("progress", {"status": "paused", "phase": "train", "completed": 4})], False),
        ([Told("progress", {"status": "running", "phase": "evaluate", "completed": 0})], False),
    ],
)
def test_what_was_heard_is_enough_or_the_job_is_asked_for(heard: list[Told], known: bool) -> None:
    now = brought_up_to_date(job(), heard)
    assert (now is not None) == known
    if heard and known and heard[0].name == "progress":
        assert now == job(completed=4) | {"progress": {"phase": "train", "completed": 4}}


def test_the_job_that_ended_is_believed_over_all_that_was_told_before() -> None:
    heard = [Told("message", {"type": "message"}, "ftevent-1"), Told("done", job("succeeded"), "ftjob-1")]
    assert brought_up_to_date(job(), heard) == job("succeeded")
