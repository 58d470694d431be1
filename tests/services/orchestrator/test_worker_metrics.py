"""What a worker counts: each end of an item and of a call once, under names of few values, over HTTP."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError
from stand.bench import rows as make_rows
from stand.processes import ROOT, Stand, wait
from stand.server import Server
from stand.teacher import status

from services.orchestrator import pool
from services.orchestrator.dispatch import Sweeper, dispatch, sweep
from services.orchestrator.execute import execute
from services.orchestrator.jobs import Event
from services.orchestrator.leases import item_of
from services.orchestrator.pool import TRIP
from services.orchestrator.settings import Settings
from services.orchestrator.teachers import Teachers
from services.orchestrator.worker import _options, main
from services.orchestrator.worker_metrics import WorkerMetrics, serve
from understudy.errors import InvalidRequest, LeaseLost, Overloaded, Unavailable, UnderstudyError
from understudy.schemas import AttributionExample, AttributionRequest
from understudy.testing import FakeTeacher

BOUND = 120.0  # seconds: a busy machine starts a worker slowly
ASKED = {"teacher": "http://127.0.0.1:8001", "call": "attribute"}


def asked_about(count: int) -> AttributionRequest:
    examples = tuple(AttributionExample(id=f"{i}", input=f"text {i} is great", output="great") for i in range(count))
    return AttributionRequest(model="teacher", examples=examples, labels=("awful", "great"), target="gold")


def nothing() -> None:
    return None


# --- items ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shard(bench: Any) -> Callable[..., str]:
    """Executes a shard of a job and tells how that was counted."""
    job = bench.work(bench.submit(), until="annotate")
    ids, kind = bench.item_ids(job), {"queue": "annotate", "phase": "annotate"}
    value = bench.context.metrics.registry.get_sample_value

    def ends() -> dict[str, float]:
        names = ("done", "failed", "retried", "released", "lost")
        return {name: value("understudy_worker_items_total", kind | {"outcome": name}) or 0.0 for name in names}

    def run(index: int = 0, stopping: threading.Event | None = None) -> str:
        before, seconds = ends(), value("understudy_worker_item_seconds_count", kind) or 0.0
        execute(bench.context, ids[index], "worker-1", stopping or threading.Event())
        (end,) = (name for name, count in ends().items() if count == before[name] + 1)
        assert sum(ends().values()) == sum(before.values()) + 1
        assert value("understudy_worker_item_seconds_count", kind) == seconds + 1
        assert value("understudy_worker_items_open", kind) == 0
        return end

    return run


class Acting(FakeTeacher):
    """Acts on the first request for work, and answers then."""

    act: Callable[[], Any] = staticmethod(nothing)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.act()
        return super().handle_request(request)


@pytest.fixture
def teacher() -> Acting:
    return Acting()


def test_an_item_is_counted_by_how_each_attempt_ended(bench: Any, shard: Callable[..., str], teacher: Acting) -> None:
    stopping = threading.Event()
    teacher.act = stopping.set
    assert shard(stopping=stopping) == "released"

    def fail() -> None:
        raise Unavailable("away")

    teacher.act = fail
    assert shard() == "retried"
    teacher.act = nothing
    assert shard() == "done"
    attempts = bench.context.metrics.registry.get_sample_value
    kind = {"queue": "annotate", "phase": "annotate"}
    assert attempts("understudy_worker_item_attempts_bucket", kind | {"le": "1.0"}) == 0
    assert attempts("understudy_worker_item_attempts_bucket", kind | {"le": "2.0"}) == 1
    assert attempts("understudy_worker_item_attempts_sum", kind) == 2  # what was given back was none


def test_an_item_that_fails_for_good_or_is_lost_is_counted_as_that(
    bench: Any, shard: Callable[..., str], teacher: Acting
) -> None:
    (job,), _ = bench.context.jobs.page(None, 1)
    teacher.act = lambda: bench.context.flow.pause(job.id)
    assert shard() == "lost"
    bench.context.flow.resume(job.id)
    teacher.act = nothing
    teacher.fail_next(InvalidRequest("examples[0].input is wrong"))
    assert shard(1) == "failed"


def test_an_item_whose_end_cannot_be_written_is_at_work_no_more(
    bench: Any, shard: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("services.orchestrator.execute._run", broken)
    with pytest.raises(ZeroDivisionError):
        shard()
    kind = {"queue": "annotate", "phase": "annotate"}
    value = bench.context.metrics.registry.get_sample_value
    assert value("understudy_worker_items_open", kind) == 0
    assert value("understudy_worker_items_total", kind | {"outcome": "lost"}) == 1


def test_an_item_that_is_taken_back_from_a_lost_worker_is_counted_by_who_did_it(
    settings: Settings, make_bench: Any, teacher: FakeTeacher, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = (make_bench(settings, teacher, clock) for _ in range(2))
    (item_id,) = slow.item_ids(slow.submit_items(1))
    assert slow.context.leases.claim(item_id, "worker-1")
    clock.now += 2 * settings.lease_seconds
    others = [quick]

    def overtaken(row: Any) -> Any:
        if others:
            sweep(others.pop().context)  # between the look at the item and taking it back
        return item_of(row)

    monkeypatch.setattr("services.orchestrator.flow.item_of", overtaken)
    sweep(slow.context)
    name, kind = "understudy_worker_items_recovered_total", {"queue": "annotate", "phase": "annotate"}
    assert quick.context.metrics.registry.get_sample_value(name, kind) == 1
    assert slow.context.metrics.registry.get_sample_value(name, kind) is None
    slow.context.close()
    quick.context.close()


# --- rounds and messages -------------------------------------------------------------------------------------------


def test_messages_are_counted_by_whether_the_broker_took_them(bench: Any) -> None:
    job, send = bench.submit_items(3), bench.context.send
    value = bench.context.metrics.registry.get_sample_value

    def counted() -> list[float | None]:
        name, queue = "understudy_messages_total", {"queue": "annotate"}
        return [value(name, queue | {"outcome": outcome}) for outcome in ("sent", "broker_away")]

    def away(*_: Any) -> None:
        raise Unavailable("no broker")

    assert counted() == [0, 0]
    bench.context.send = away
    dispatch(bench.context)
    assert counted() == [0, 1]
    bench.context.send = send
    dispatch(bench.context)
    assert counted() == [3, 1]
    assert len(bench.sent) == len(bench.item_ids(job))


def test_rounds_of_the_sweeper_are_counted_by_how_they_ended(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = sqlite3.OperationalError("database is locked")
    locked.sqlite_errorcode = sqlite3.SQLITE_BUSY
    errors: list[Exception] = [OperationalError("UPDATE", {}, locked), ZeroDivisionError("a defect")]

    def recover() -> list[Any]:
        if errors:
            raise errors.pop(0)
        return []

    monkeypatch.setattr(bench.context.flow, "recover", recover)
    value = bench.context.metrics.registry.get_sample_value
    sweeper = Sweeper(bench.context)
    sweeper.start()

    def rounds(outcome: str) -> float | None:
        sweeper.wake()
        return value("understudy_sweeps_total", {"outcome": outcome})

    wait(lambda: (rounds("done") or 0) >= 2)
    sweeper.stop()
    assert (rounds("database_away"), rounds("failed")) == (1, 1)


def test_an_api_process_shows_what_it_sweeps_and_asks_itself(settings: Settings) -> None:
    server = Server(settings)
    try:
        wait(lambda: 'understudy_sweeps_total{outcome="done"} 0.0' not in server.http.get("/metrics").text)
        text = server.http.get("/metrics").text
        assert 'understudy_messages_total{outcome="sent",queue="train"} 0.0' in text
        assert 'understudy_teacher_breaker_open{teacher="http://127.0.0.1:8001"} 0.0' in text
        names = [family.name for family in text_string_to_metric_families(text)]
        assert len(names) == len(set(names))
    finally:
        server.stop()


# --- calls ---------------------------------------------------------------------------------------------------------


def swapped(body: dict[str, Any]) -> None:
    body["results"].reverse()


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(FakeTeacher().handle_request(request).read())
        change(body)
        return httpx.Response(200, json=body)

    return answer


def raising(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    return answer


def answering(code: int, content: bytes = b"") -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(code, content=content)


ENDS: dict[str, tuple[str, Callable[[httpx.Request], httpx.Response]]] = {
    "an answer": ("ok", changed(lambda _: None)),
    "429": ("busy", answering(429)),
    "413": ("4xx", answering(413)),
    "500": ("5xx", answering(500)),
    "503": ("5xx", answering(503)),
    "no answer in time": ("timeout", raising(httpx.ReadTimeout("too long"))),
    "no connection in time": ("timeout", raising(httpx.ConnectTimeout("too long"))),
    "refused": ("unreachable", raising(httpx.ConnectError("refused"))),
    "cut short": ("bad_answer", answering(200, b'{"results": [{"id": "0", "wor')),
    "a field is missing": ("bad_answer", changed(lambda body: body.pop("fingerprint"))),
    "another order": ("bad_answer", changed(swapped)),
    "the item was lost": ("stopped", raising(LeaseLost("another has it"))),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_call_is_counted_once_by_how_it_ended(settings: Settings, name: str) -> None:
    outcome, answer = ENDS[name]
    metrics = WorkerMetrics()
    teachers = Teachers(settings.model_copy(update={"teacher_patience": 1e-9}), httpx.MockTransport(answer), metrics)
    with nullcontext() if outcome == "ok" else pytest.raises(UnderstudyError):
        teachers.attribute(asked_about(1 if outcome == "4xx" else 2), nothing)  # more are halved
    (calls,) = (one for one in metrics.registry.collect() if one.name == "understudy_teacher_calls")
    counted = [(one.labels, one.value) for one in calls.samples if one.name.endswith("_total")]
    assert counted == [(ASKED | {"outcome": outcome}, 1)]
    value = metrics.registry.get_sample_value
    assert value("understudy_teacher_call_seconds_count", ASKED) == 1
    assert value("understudy_teacher_calls_open", {"teacher": ASKED["teacher"]}) == 0
    assert value("understudy_teacher_examples_total", ASKED) == (2 if outcome == "ok" else None)
    gave_up = outcome in ("busy", "5xx", "timeout", "unreachable", "bad_answer")
    assert value("understudy_teacher_gave_up_total", {"call": "attribute"}) == (1 if gave_up else None)


def test_the_breaker_of_a_teacher_is_seen_open_until_it_answers(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "FIRST_REST", 0.0)
    metrics, fake = WorkerMetrics(), FakeTeacher()
    teachers = Teachers(settings.model_copy(update={"teacher_patience": 1e-9}), fake, metrics)

    def is_open() -> float | None:
        return metrics.registry.get_sample_value("understudy_teacher_breaker_open", {"teacher": ASKED["teacher"]})

    assert is_open() == 0
    fake.fail_next(Overloaded("full"), *[Unavailable("away")] * TRIP)
    for _ in range(TRIP):
        assert is_open() == 0
        with pytest.raises((Overloaded, Unavailable)):
            teachers.attribute(asked_about(1), nothing)
    with pytest.raises(Unavailable):
        teachers.attribute(asked_about(1), nothing)
    assert is_open() == 1
    teachers.attribute(asked_about(1), nothing)
    assert is_open() == 0


def test_a_teacher_that_is_named_twice_is_one_series(settings: Settings) -> None:
    urls = ("http://a:sesame@teacher:1", "http://b:sesame@teacher:1/")
    metrics = WorkerMetrics()
    teachers = Teachers(settings.model_copy(update={"teacher_urls": urls}), FakeTeacher(), metrics)
    teachers.attribute(asked_about(1), nothing)
    found = {
        (sample.name, sample.labels["teacher"])
        for family in metrics.registry.collect()
        for sample in family.samples
        if "teacher" in sample.labels
    }
    assert {teacher for _, teacher in found} == {"http://teacher:1"}


# --- over HTTP -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [("8003", "127.0.0.1", 8003), ("0.0.0.0:8003", "0.0.0.0", 8003), ("[::]:0", "::", 0), ("box:1", "box", 1)],
)
def test_metrics_are_for_this_machine_alone_unless_a_host_is_named(given: str, host: str, port: int) -> None:
    assert _options(["--metrics", given]).metrics == (host, port)
    assert _options([]).metrics is None


def test_an_address_that_is_taken_ends_the_worker_in_one_line_before_it_takes_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SystemExit) as caught:
            main(["--metrics", f"{port}"])
    said = str(caught.value.code)
    assert said.startswith(f"the worker does not start: the metrics cannot be had at 127.0.0.1:{port} (Address already")
    assert said.endswith("choose another address with --metrics")
    assert "\n" not in said
    assert not (tmp_path / "home").exists()


def test_the_address_is_free_again_when_the_worker_has_ended() -> None:
    registry = WorkerMetrics().registry
    with serve(registry, "127.0.0.1", 0) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)
        assert "process_resident_memory_bytes" in answer.text
        assert "understudy_sweeps_total" in answer.text
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)
    with serve(registry, "127.0.0.1", port):
        assert httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).status_code == 200


class Working:
    """A real worker on a real broker, whose teacher has a password in its address."""

    def __init__(self, stand: Stand, port: int) -> None:
        self.stand, self.url = stand, f"http://127.0.0.1:{port}/metrics"
        command = [sys.executable, "-m", "services.orchestrator.worker", "--queues", "control,annotate"]
        environment = {**stand.environment, "UNDERSTUDY_TEACHER_URLS": stand.teacher.url.replace("//", "//me:sesame@")}
        self.process = subprocess.Popen([*command, "--metrics", f"{port}"], cwd=ROOT, env=environment)
        stand.workers["control", "annotate"] = self.process

    def text(self) -> str:
        answer = httpx.get(self.url, trust_env=False)
        assert answer.status_code == 200
        return answer.text

    def samples(self, name: str, *labels: str) -> dict[Any, float]:
        """The values of a metric above 0, by these of its labels."""
        families = text_string_to_metric_families(self.text())
        found = [one for family in families for one in family.samples if one.name == name and one.value]
        assert len({tuple(one.labels.items()) for one in found}) == len(found)
        return {tuple(one.labels[label] for label in labels): one.value for one in found}


@pytest.fixture
def working(tmp_path: Path, free_port: int) -> Iterator[Working]:
    stand = Stand(tmp_path, lease_seconds=60.0)
    try:
        yield Working(stand, free_port)
    finally:
        stand.close()


@pytest.mark.e2e
@pytest.mark.timeout(400)
def test_a_worker_tells_exactly_what_it_did_and_nothing_half_when_it_is_ended(working: Working) -> None:
    stand = working.stand
    stand.teacher.faults.append(status(503, {"retry-after": "0"}))
    job = stand.submit(make_rows(60))
    wait(lambda: stand.get(job).phase == "train", BOUND)
    shards = len(stand.context.flow.items(job.id, "annotate"))

    def ended() -> dict[Any, float]:
        return working.samples("understudy_worker_items_total", "queue", "phase", "outcome")

    items = {
        ("control", "validate", "done"): 1,
        ("control", "preflight", "done"): 1,
        ("annotate", "annotate", "done"): shards,
    }
    # An item's end is counted a moment after it is written.
    wait(lambda: sum(ended().values()) == sum(items.values()), BOUND)
    assert ended() == items
    assert working.samples("understudy_worker_item_seconds_count", "phase") == {
        (phase,): count for (_, phase, _), count in items.items()
    }
    asked = stand.teacher.fake.requests
    calls = working.samples("understudy_teacher_calls_total", "call", "outcome")
    assert calls[("attribute", "5xx")] == 1
    assert calls[("attribute", "ok")] == len(asked) - 1
    assert {outcome for _, outcome in calls} == {"ok", "5xx"}
    examples = Counter(len(request.examples) for request in asked[1:])  # type: ignore[union-attr]
    assert working.samples("understudy_teacher_examples_total", "teacher", "call") == {
        (stand.teacher.url, "attribute"): sum(size * count for size, count in examples.items())
    }
    assert working.samples("understudy_worker_items_open") == {}
    assert working.samples("understudy_teacher_calls_open") == {}
    assert "sesame" not in working.text()
    assert job.id not in working.text()
    stand.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))

    stand.teacher.hold(after=4)  # preflight's 16 examples
    second = stand.submit(make_rows(60, " again"))
    wait(lambda: stand.teacher.waiting == 2, BOUND)
    assert working.samples("understudy_worker_items_open", "phase") == {("annotate",): 2}
    assert working.samples("understudy_teacher_calls_open", "teacher") == {(stand.teacher.url,): 2}
    before = ended()
    working.process.send_signal(signal.SIGTERM)
    seen = [before]
    try:
        while True:
            seen.append(ended())
    except httpx.TransportError:
        pass
    assert working.process.wait(BOUND) == 0
    released = ("annotate", "annotate", "released")
    assert all(one.keys() - before.keys() <= {released} for one in seen)
    assert all(one.get(released, 0) <= 2 for one in seen)
    assert {name: count for name, count in seen[-1].items() if name != released} == before
    states = {(item.state, item.attempts) for item in stand.context.flow.items(second.id, "annotate")}
    assert states == {("pending", 0)}
    stand.context.flow.end(second.id, "cancelled", Event(message="Job cancelled"))
