"""A worker's files for probes, and its end when there is nothing to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stand.processes import Broker, wait

from services.orchestrator.signs import Signs

ROOT = Path(__file__).parents[3]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the process would have ended itself."""
    event = threading.Event()

    def kill(_: int, number: int) -> None:
        assert number == signal.SIGTERM
        event.set()

    monkeypatch.setattr("services.orchestrator.signs.os.kill", kill)
    return event


def test_a_worker_whose_sweeper_has_ended_shows_no_life(tmp_path: Path) -> None:
    sound = threading.Event()
    asked = threading.Semaphore(0)

    def is_sound() -> bool:
        asked.release()
        return sound.is_set()

    signs = Signs(tmp_path / "worker", sound=is_sound, beat_seconds=0.01)
    signs.start()
    assert asked.acquire(timeout=30)
    assert asked.acquire(timeout=30)
    assert not (tmp_path / "worker" / "alive").exists()
    sound.set()
    wait((tmp_path / "worker" / "alive").exists)
    signs.stop()


def test_ready_comes_and_goes_and_is_not_inherited(tmp_path: Path) -> None:
    (tmp_path / "ready").touch()
    signs = Signs(tmp_path)
    signs.start()
    assert not (tmp_path / "ready").exists()
    signs.ready()
    assert (tmp_path / "ready").exists()
    signs.ready(False)
    assert not (tmp_path / "ready").exists()
    signs.stop()


def test_nobody_who_works_or_is_not_ready_is_ended_for_idleness(ended: threading.Event) -> None:
    signs = Signs(idle_exit=0.02)
    signs.start()
    assert not ended.wait(0.2)
    with signs.at_work():
        signs.ready()
        assert not ended.wait(0.2)
    assert ended.wait(30)
    signs.stop()


def test_a_worker_without_a_bound_waits_for_ever(ended: threading.Event) -> None:
    signs = Signs(beat_seconds=0.01)
    signs.start()
    signs.ready()
    assert not ended.wait(0.1)
    signs.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a real worker with these options, on a broker of its own."""
    broker, started = Broker(tmp_path), []
    broker.start()
    environment = {**os.environ, "UNDERSTUDY_HOME": str(tmp_path / "home"), "UNDERSTUDY_BROKER_URL": broker.url}

    def run(*options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "services.orchestrator.worker", "--queues", "annotate", *options]
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment))
        return started[-1]

    yield run
    for worker in started:
        worker.kill()
        worker.wait()
    broker.stop()


@pytest.mark.e2e
def test_a_worker_is_ready_until_it_is_told_to_end(start: Callable[..., Any], tmp_path: Path) -> None:
    worker = start("--signs", str(tmp_path / "signs"))
    wait((tmp_path / "signs" / "ready").exists)
    assert (tmp_path / "signs" / "alive").exists()
    worker.terminate()
    assert worker.wait(60) == 0
    assert not (tmp_path / "signs" / "ready").exists()


@pytest.mark.e2e
def test_an_idle_worker_ends_well(start: Callable[..., Any]) -> None:
    assert start("--idle-exit", "0.5").wait(60) == 0
