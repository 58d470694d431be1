"""Calls over a real socket that must end: an answer that drips, one that never comes, and a caller that must stop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx
import pytest

from services.orchestrator.calls import WholeCall, terms


def nothing() -> None:
    return None


@pytest.fixture
def network() -> Iterator[WholeCall]:
    one = WholeCall()
    yield one
    one.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Answers each connection with a function of the test's, and gives the address."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def start(answer: Callable[[socket.socket], None]) -> str:
        def one() -> None:
            with suppress(OSError):
                while not ended.is_set():
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.recv(65536)
                        answer(connection)

        threading.Thread(target=one, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    ended.set()
    listener.close()


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"x-drop: 1\r\n")
        time.sleep(0.02)


def drip_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.02)


def hang(connection: socket.socket) -> None:
    connection.recv(1)  # until the other side closes


@pytest.mark.parametrize("answer", [drip, drip_body, hang])
def test_the_deadline_is_for_the_whole_call(network: WholeCall, serve: object, answer: object) -> None:
    url = serve(answer)  # type: ignore[operator]
    started = time.monotonic()
    with (
        httpx.Client(base_url=url, transport=network) as client,
        terms(0.3, nothing),
        pytest.raises(httpx.ReadTimeout, match=r"0\.3 s"),
    ):
        client.get("/")
    assert time.monotonic() - started < 1.0


def test_a_caller_that_must_stop_ends_its_call(network: WholeCall, serve: object) -> None:
    closed = threading.Event()

    def wait_for_the_end(connection: socket.socket) -> None:
        connection.recv(1)
        closed.set()

    url = serve(wait_for_the_end)  # type: ignore[operator]
    end = time.monotonic() + 0.2

    def check() -> None:
        if time.monotonic() > end:
            raise InterruptedError

    with httpx.Client(base_url=url, transport=network) as client:
        with terms(60.0, check), pytest.raises(InterruptedError):
            client.get("/")
        assert closed.wait(2), "the connection was left open"


def test_an_answer_that_ends_early_is_an_error_of_the_transport(network: WholeCall, serve: object) -> None:
    url = serve(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}"))  # type: ignore[operator]
    with httpx.Client(base_url=url, transport=network) as client, pytest.raises(httpx.RemoteProtocolError):
        client.get("/")


def test_a_whole_answer_comes_with_its_headers(network: WholeCall, serve: object) -> None:
    head = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\nretry-after: 7\r\n\r\n{}"
    url = serve(lambda connection: connection.sendall(head))  # type: ignore[operator]
    with httpx.Client(base_url=url, transport=network) as client:
        answer = client.post("/", json={"a": 1})
    assert (answer.status_code, answer.headers["retry-after"], answer.json()) == (429, "7", {})
