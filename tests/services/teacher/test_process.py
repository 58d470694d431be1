"""The teacher as a process of its own: what it refuses at the start, and how it ends under load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from services.teacher.__main__ import main
from understudy.artifacts import ArtifactStore
from understudy.client import TeacherClient
from understudy.testing import SENTENCES

ROOT = Path(__file__).parents[3]


@contextmanager
def _running(published: ArtifactStore, port: int, **settings: str) -> Iterator[subprocess.Popen[str]]:
    chosen = {"ARTIFACTS": published.root, "MODEL": "classifier", "PORT": port, "DEVICE": "cpu", **settings}
    environment = {**os.environ, **{f"UNDERSTUDY_TEACHER_{name}": str(value) for name, value in chosen.items()}}
    command = [sys.executable, "-m", "services.teacher"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
    reader.start()
    try:
        with TeacherClient(f"http://127.0.0.1:{port}") as client:
            while not client.ready():
                assert process.poll() is None, lines
                time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


@pytest.mark.e2e
def test_not_one_accepted_request_fails_when_the_teacher_is_told_to_end(
    published: ArtifactStore, free_port: int
) -> None:
    """Clients stop when they see that the service is not ready, as a balancer does; until then all are answered."""
    url, stop, failures, answered = f"http://127.0.0.1:{free_port}", threading.Event(), [], []

    def caller(number: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            for turn in range(10_000):
                if stop.is_set():
                    return
                examples = [{"input": f"{turn} {number} {text}"} for text in SENTENCES[: 1 + number % 3]]
                try:
                    answer = client.post("/v1/attributions", json={"examples": examples})
                    assert answer.status_code == 200, answer.text
                    assert len(answer.json()["results"]) == len(examples)
                    answered.append(number)
                except Exception as error:
                    failures.append(error)

    with _running(published, free_port, DRAIN_SECONDS="1.5") as process:
        threads = [threading.Thread(target=caller, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        with TeacherClient(url) as client:
            while client.ready():
                time.sleep(0.02)
        time.sleep(0.5)  # a balancer needs a while
        stop.set()
        for thread in threads:
            thread.join(60)
        assert process.wait(30) == 0
    assert failures == []
    assert set(answered) == set(range(24))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"HOST": "0.0.0.0"}, "no API key is set: set UNDERSTUDY_TEACHER_API_KEYS"),
        ({"API_KEYS": "sha256:abc"}, "64 hex digits"),
        ({"API_KEYS_FILE": "/no/such/file"}, "/no/such/file"),
    ],
)
def test_a_wrong_installation_does_not_start_and_says_what_would_be_right(
    settings: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"UNDERSTUDY_TEACHER_{name}", value)
    with pytest.raises(SystemExit, match=f"the teacher does not start: .*{words}"):
        main()


@pytest.mark.parametrize("settings", [{"API_KEYS": "sk-one"}, {"ALLOW_ANONYMOUS": "true"}])
def test_an_address_that_others_reach_is_served_with_keys_or_on_request(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[str] = []
    monkeypatch.setattr("services.teacher.__main__.serve", lambda *args, **_: served.append(args[2]))
    for name, value in {"HOST": "0.0.0.0", **settings}.items():
        monkeypatch.setenv(f"UNDERSTUDY_TEACHER_{name}", value)
    main()
    assert served == ["0.0.0.0"]
