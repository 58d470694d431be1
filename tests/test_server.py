"""A service as a process of its own: what it refuses at the start, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import IO, cast

import h11
import httpx
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from understudy.errors import InvalidRequest
from understudy.server import _Connection, refuse_open_door

ROOT = Path(__file__).parents[1]

PROGRAM = """
import asyncio
import sys
from contextlib import asynccontextmanager

from starlette.responses import StreamingResponse

from understudy.server import serve
from understudy.web import make_app


@asynccontextmanager
async def lifespan(_):
    yield
    print("ended well", flush=True)


async def ready(_):
    return {}


app = make_app("test", description="", lifespan=lifespan, ready=ready, max_body=1000, cancel=True)


@app.post("/pause/{seconds}")
async def work(seconds: float, body: dict[str, int]) -> dict[str, int]:
    await asyncio.sleep(seconds)
    return body


async def pieces():
    await asyncio.sleep(3600)
    yield b"late"


@app.get("/stream")
async def stream() -> StreamingResponse:
    return StreamingResponse(pieces())


serve("test", app, "127.0.0.1", int(sys.argv[1]), drain_seconds=float(sys.argv[2]))
"""


@dataclass
class Running:
    """The service's process. It writes to a file, because a pipe that nobody reads fills up and stops it."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def written(self) -> str:
        self.output.seek(0)
        return self.output.read().decode()


@contextmanager
def _running(port: int, drain_seconds: float) -> Iterator[Running]:
    command = [sys.executable, "-c", PROGRAM, str(port), str(drain_seconds)]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            while not _ready(port):
                assert process.poll() is None
                time.sleep(0.02)
            yield Running(process, output)
        finally:
            process.kill()
            process.wait()


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").is_success
    except httpx.TransportError:
        return False


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def _in_threads(count: int, work: Callable[[int], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_not_one_request_is_lost_when_a_service_under_load_is_told_to_end(free_port: int) -> None:
    """Clients stop when they see that the service is not ready, as a balancer does; until then all are answered."""
    url, stop, failures, answered = f"http://127.0.0.1:{free_port}", threading.Event(), [], []

    def caller(number: int) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stop.is_set():
                try:
                    answer = client.post(f"/pause/{0.01 * (number % 5)}", json={"n": number})
                    assert answer.status_code == 200
                    assert answer.json() == {"n": number}
                    answered.append(answer.headers.get("connection"))
                except Exception as error:
                    failures.append(error)

    with _running(free_port, drain_seconds=100.0) as service:
        threads = _in_threads(16, caller)
        while len(answered) <= 50 and not failures:  # as long as a slow machine takes for them
            time.sleep(0.01)
        service.process.send_signal(signal.SIGTERM)
        while _ready(free_port):
            time.sleep(0.02)
        time.sleep(0.3)  # a balancer needs a while
        stop.set()
        for thread in threads:
            thread.join(30)
        service.process.send_signal(signal.SIGTERM)  # all have left, however slow this machine is: the drain may end
        code = service.process.wait(30)
        output = service.written()
    assert failures == []
    assert len(answered) > 50
    assert answered.count("close") >= 16  # every connection was asked to go elsewhere
    assert (code, "ended well" in output) == (0, True), output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_finished_when_there_is_no_time_to_drain(free_port: int, number: int) -> None:
    answers: list[int] = []

    def caller(i: int) -> None:
        with connections[i] as client:
            answers.append(client.post(f"http://127.0.0.1:{free_port}/pause/1.5", json={"n": i}).status_code)

    with _running(free_port, drain_seconds=0.0) as service:
        connections = [httpx.Client(timeout=30) for _ in range(8)]
        threads = _in_threads(8, caller)
        while "understudy_http_requests_open 9.0" not in httpx.get(f"http://127.0.0.1:{free_port}/metrics").text:
            time.sleep(0.02)
        service.process.send_signal(number)
        for thread in threads:
            thread.join(30)
        assert service.process.wait(10) == 0
        assert "ended well" in service.written()
    assert answers == [200] * 8


def test_a_connection_that_was_there_may_still_send_when_the_socket_has_closed(free_port: int) -> None:
    with _running(free_port, drain_seconds=0.0) as service, httpx.Client(timeout=10) as client:
        url = f"http://127.0.0.1:{free_port}"
        client.get(f"{url}/livez")
        service.process.send_signal(signal.SIGTERM)
        while _accepts(free_port):
            time.sleep(0.005)
        answer = client.post(f"{url}/pause/0.1", json={"n": 1})
        assert (answer.json(), answer.headers["connection"]) == ({"n": 1}, "close")
        assert service.process.wait(10) == 0


def test_a_second_signal_does_not_wait_for_the_drain(free_port: int) -> None:
    with _running(free_port, drain_seconds=60.0) as service:
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(10) == 0


def test_a_service_that_only_this_machine_reaches_answers_no_page_of_another_site(free_port: int) -> None:
    """Pages that a browser here shows could reach it, under a name of their own that points at this machine."""
    with _running(free_port, drain_seconds=0.0):
        url = f"http://127.0.0.1:{free_port}/pause/0"
        assert httpx.post(url, json={"n": 1}).status_code == 200
        for header in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
            assert httpx.post(url, json={"n": 1}, headers=header).status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "teacher.example.org"])
def test_an_address_that_others_reach_needs_a_key(host: str) -> None:
    with pytest.raises(InvalidRequest, match="UNDERSTUDY_TEACHER_ALLOW_ANONYMOUS=true"):
        refuse_open_door(host, guarded=False, setting="UNDERSTUDY_TEACHER")
    refuse_open_door(host, guarded=True, setting="UNDERSTUDY_TEACHER")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_an_address_of_this_machine_alone_needs_none(host: str) -> None:
    refuse_open_door(host, guarded=False, setting="UNDERSTUDY_TEACHER")


def test_the_head_of_a_stream_comes_before_there_is_any_of_its_body(free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}/stream"
    with _running(free_port, 0), httpx.stream("GET", url, timeout=20) as answer:
        assert answer.status_code == 200


def test_a_connection_that_rests_longer_than_clients_keep_theirs_is_still_answered(free_port: int) -> None:
    """httpx, and OpenAI's client with it, uses one again for 5 seconds: the service must not let go first."""
    with _running(free_port, 0), httpx.Client(limits=httpx.Limits(keepalive_expiry=60)) as client:
        before = client.get(f"http://127.0.0.1:{free_port}/livez").extensions["network_stream"]
        time.sleep(6)
        answer = client.get(f"http://127.0.0.1:{free_port}/livez")
        assert answer.extensions["network_stream"].get_extra_info("client_addr") == before.get_extra_info("client_addr")


@pytest.mark.anyio
async def test_an_answer_is_one_write() -> None:
    written: list[bytes] = []
    transport = SimpleNamespace(write=written.append, is_closing=lambda: False)
    connection = _Connection(cast(H11Protocol, SimpleNamespace(transport=transport)))
    connection.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    connection.next_event()
    assert connection.send(h11.Response(status_code=200, headers=[("Content-Length", "2")])) == b""
    whole = connection.send(h11.Data(data=b"ok"))
    assert whole is not None
    assert whole.startswith(b"HTTP/1.1 200")
    assert whole.endswith(b"\r\n\r\nok")
    await asyncio.sleep(0)
    assert b"".join(written) == b""  # the head was out already


@pytest.mark.skipif(sys.platform != "linux", reason="the page faults of one thread are Linux's to tell")
def test_a_model_thread_keeps_the_memory_of_its_last_batch() -> None:
    """Pages that a thread is given anew once it has had them: none, but those of the first round."""
    program = """
import resource, threading
from understudy.server import keep_memory

def faults():
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt

def work():
    for number in range(4):
        began = faults()
        buffers = [bytearray(12 * 2**20) for _ in range(4)]
        del buffers
        print(faults() - began)

keep_memory()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    first, *others = map(int, done.stdout.split())
    assert max(others) < first / 10
