"""The fake teacher on a real port: it can be told to wait, and to misbehave in every way that a service does."""

from __future__ import annotations

import json
import random
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from understudy.testing import FakeTeacher

__all__ = ["Fault", "HttpTeacher", "changed", "cut_short", "drip", "hang", "status"]

Fault = Callable[["HttpTeacher", BaseHTTPRequestHandler, httpx.Response], None]
"""Answers one request in its own way; the response is what the teacher would have said."""


def status(code: int, headers: dict[str, str] | None = None, body: bytes = b"Internal Server Error") -> Fault:
    def answer(_: HttpTeacher, handler: BaseHTTPRequestHandler, __: httpx.Response) -> None:
        send(handler, code, body, headers)

    return answer


def changed(change: Callable[[dict[str, Any]], None]) -> Fault:
    """A whole answer that says something else."""

    def answer(_: HttpTeacher, handler: BaseHTTPRequestHandler, honest: httpx.Response) -> None:
        body = json.loads(honest.read())
        change(body)
        send(handler, 200, json.dumps(body).encode())

    return answer


def cut_short(_: HttpTeacher, handler: BaseHTTPRequestHandler, honest: httpx.Response) -> None:
    body = honest.read()
    send(handler, 200, body[: len(body) // 2])


def hang(teacher: HttpTeacher, *_: Any) -> None:
    """Say nothing at all, until the teacher ends."""
    teacher.ended.wait(60)


def drip(teacher: HttpTeacher, handler: BaseHTTPRequestHandler, honest: httpx.Response) -> None:
    """The whole answer, a byte at a time and for longer than anybody should wait."""
    body = honest.read()
    handler.send_response(200)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    for byte in body:
        if teacher.ended.wait(0.05):
            return
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()


def send(handler: BaseHTTPRequestHandler, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    handler.send_response(code)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


class HttpTeacher:
    """After `hold(n)` it answers n requests for work, and lets the next ones wait; `faults` are for the next ones."""

    def __init__(self, port: int = 0) -> None:
        self.fake = FakeTeacher()
        self.waiting = 0
        self.asked = 0
        self.faults: deque[Fault] = deque()
        self.ended = threading.Event()
        self.before: Callable[[bytes], None] = lambda _: None
        self._changed = threading.Condition()
        self._left: int | None = None
        self._port = port
        self.start()

    def start(self) -> None:
        self.ended.clear()
        self._server = _Server(("127.0.0.1", self._port), _handler(self))
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Be away: the port refuses, and who waits for an answer never gets one."""
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    def hold(self, after: int) -> None:
        with self._changed:
            self._left, self.waiting = after, 0

    def release(self) -> None:
        with self._changed:
            self._left = None
            self._changed.notify_all()

    def take_turn(self) -> None:
        with self._changed:
            self.asked += 1
            if self._left == 0:
                self.waiting += 1
                self._changed.wait_for(lambda: self._left is None, 60)
            elif self._left is not None:
                self._left -= 1

    def fault(self) -> Fault | None:
        with self._changed:
            return self.faults.popleft() if self.faults else None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"


def main(port: str, seed: str) -> None:
    """`python -m stand.teacher PORT SEED`: a teacher that may be killed, and fails one time in twenty by itself."""
    dice = random.Random(seed)

    class Moody(HttpTeacher):
        def fault(self) -> Fault | None:
            with self._changed:
                moods = (status(500), status(503, {"retry-after": "0"}), cut_short)
                return dice.choice(moods) if dice.random() < 0.05 else None

    Moody(int(port))
    threading.Event().wait()


def _handler(teacher: HttpTeacher) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"", None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            teacher.before(body)
            teacher.take_turn()
            self._answer(body, teacher.fault())

        def _answer(self, body: bytes, fault: Fault | None) -> None:
            request = httpx.Request(self.command, f"http://teacher{self.path}", content=body)
            answer = teacher.fake.handle_request(request)
            with suppress(ConnectionError):  # whoever asked was killed, or did not wait
                if fault is not None:
                    fault(teacher, self, answer)
                elif not teacher.ended.is_set():
                    send(self, answer.status_code, answer.read())

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


if __name__ == "__main__":
    main(*sys.argv[1:])
