"""What holds a thread of the API for long has a bounded number of places; the rest of the API answers meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from stand.server import Server

from services.orchestrator import comparison, dry
from services.orchestrator.places import Places
from services.orchestrator.settings import Settings
from understudy.errors import Overloaded
from understudy.testing import tiny_classifier


def test_a_place_is_free_again_when_its_work_ends_well_or_not() -> None:
    places = Places(1, "answers")
    with places.one(), pytest.raises(Overloaded, match="1 answers are at work") as refused, places.one():
        pass
    assert refused.value.retry_after
    with pytest.raises(KeyError), places.one():
        raise KeyError
    with places.one():
        pass


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A port of a service that takes every call and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


def test_comparisons_beyond_their_number_are_told_to_come_again_and_stop_nothing_else(
    settings: Settings, bench: Any, silent: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "AT_ONCE", 2)
    model = bench.context.artifacts.publish("model", tiny_classifier(tmp_path / "model")).id
    url = f"http://127.0.0.1:{silent.getsockname()[1]}"
    server = Server(settings.model_copy(update={"student_url": url, "teacher_urls": ("http://127.0.0.1:9",)}))

    def ask(seconds: float) -> httpx.Response | None:
        try:
            body = {"model": model, "input": "The soup was great"}
            return httpx.post(f"{server.url}/v1/comparisons", json=body, timeout=seconds, trust_env=False)
        except httpx.HTTPError:
            return None

    waiting = [threading.Thread(target=ask, args=(60.0,)) for _ in range(2)]
    for one in waiting:
        one.start()
    held = [silent.accept()[0] for _ in waiting]  # both wait for the student
    refused = ask(10.0)
    assert refused is not None
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    assert "2 comparisons are at work" in refused.json()["error"]["message"]
    missing = server.http.post("/v1/comparisons", json={"model": "nobody", "input": "x"})
    assert missing.status_code == 404, "what cannot be asked needs no place"
    for one in held:
        one.close()
    silent.close()
    for thread in waiting:
        thread.join(60)
    again = ask(30.0)
    assert again is not None
    assert again.status_code == 503
    server.stop()


def test_dry_runs_and_comparisons_leave_most_threads_to_others() -> None:
    assert comparison.AT_ONCE + dry.AT_ONCE <= 20
