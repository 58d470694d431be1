"""The student as a process of its own: what it refuses at the start, its keys, and how it ends under load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.student.__main__ import main

ROOT = Path(__file__).parents[3]


@contextmanager
def _running(root: str, port: int, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    chosen = {"ARTIFACTS": root, "PORT": str(port), "DEVICE": "cpu", **settings}
    environment = {**os.environ, **{f"UNDERSTUDY_STUDENT_{name}": value for name, value in chosen.items()}}
    process = subprocess.Popen([sys.executable, "-m", "services.student"], cwd=ROOT, env=environment)
    try:
        while not _ready(port):
            assert process.poll() is None
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.e2e
def test_not_one_accepted_request_fails_when_the_student_is_told_to_end(
    store: Any, publish: Callable[..., str], free_port: int
) -> None:
    """Clients stop when they see that the service is not ready, as a balancer does; until then all are answered."""
    publish("one", "production")
    url, stop, failures, answered = f"http://127.0.0.1:{free_port}", threading.Event(), [], set()

    def caller(number: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stop.is_set():
                try:
                    answer = client.post("/v1/predictions", json={"inputs": ["a dull film"] * (1 + number % 3)})
                    assert answer.status_code == 200, answer.text
                    answered.add(number)
                except Exception as error:
                    failures.append(error)

    with _running(store.root, free_port, DRAIN_SECONDS="1.5") as process:
        threads = [threading.Thread(target=caller, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        while _ready(free_port):
            time.sleep(0.02)
        time.sleep(0.3)  # a balancer needs a while
        stop.set()
        for thread in threads:
            thread.join(60)
        assert process.wait(30) == 0
    assert failures == []
    assert answered == set(range(16))


@pytest.mark.anyio
async def test_every_address_but_health_and_metrics_needs_a_key(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    publish("one", "production")
    async with running(store, api_keys=("sk-one",)) as student:
        await student.until_ready()
        paths = (await student.http.get("/openapi.json", headers={"Authorization": "Bearer sk-one"})).json()["paths"]
        open_to_all = set()
        for path, methods in paths.items():
            for method in methods:
                answer = await student.http.request(method, path.replace("{model}", "production"))
                if answer.status_code != 401:
                    open_to_all.add(path)
        assert open_to_all == {"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}
        student.http.headers["Authorization"] = "Bearer sk-one"
        assert (await student.ask()).status_code == 200
        student.http.headers["Authorization"] = "Bearer sk-two"
        assert (await student.ask()).status_code == 401


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"HOST": "0.0.0.0"}, "no API key is set: set UNDERSTUDY_STUDENT_API_KEYS"),
        ({"API_KEYS": "sha256:abc"}, "64 hex digits"),
        ({"API_KEYS_FILE": "/no/such/file"}, "/no/such/file"),
    ],
)
def test_a_wrong_installation_does_not_start_and_says_what_would_be_right(
    settings: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"UNDERSTUDY_STUDENT_{name}", value)
    with pytest.raises(SystemExit, match=f"the student does not start: .*{words}"):
        main()
