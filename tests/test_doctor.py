"""What the doctor says of a machine, with real ports, a real Redis, real files, and probes that fail or hang."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from understudy import cli
from understudy.doctor import Finding, Place, examine, installed, machine, services
from understudy.doctor.finding import State
from understudy.doctor.secrets import hidden
from understudy.stack import StackConfig, broker_command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("BROKER_URL", "URL", "DATABASE_URL", "ARTIFACTS"):
        monkeypatch.delenv(f"UNDERSTUDY_{name}", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    return Place(tmp_path / "home")


@pytest.fixture
def redis(tmp_path: Path, free_port: int) -> Iterator[str]:
    """A Redis that wants a password, by its URL."""
    options = ["--port", str(free_port), "--requirepass", "open-sesame", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen([*broker_command(), *options], stdout=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + 20
        while _is_shut(free_port) and time.monotonic() < deadline:
            time.sleep(0.02)
        yield f"redis://:open-sesame@127.0.0.1:{free_port}/0"
        server.terminate()


def _is_shut(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


class _Service(BaseHTTPRequestHandler):
    """Not ready, and an hour behind."""

    def do_GET(self) -> None:
        body = json.dumps({"error": {"message": "the broker does not answer"}}).encode()
        self.send_response_only(503)
        self.send_header("Date", self.date_time_string(time.time() - 3600))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def service() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_probe_that_hangs_or_fails_costs_its_own_line_only(place: Place) -> None:
    forever = threading.Event()

    def hangs(_: Place) -> Iterator[Finding]:
        forever.wait()
        yield Finding("never", "ok", "")

    def fails(_: Place) -> Iterator[Finding]:
        raise RuntimeError("no such thing")
        yield

    def answers(_: Place) -> Iterator[Finding]:
        yield Finding("answers", "ok", "well")

    found = list(examine(place, 0.5, (("hangs", hangs), ("fails", fails), ("answers", answers))))
    forever.set()
    assert [(one.name, one.state) for one in found] == [("hangs", "warning"), ("fails", "warning"), ("answers", "ok")]
    assert "longer than 0.5 s" in found[0].says
    assert "no such thing" in found[1].says


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_API_KEY", "sk-us-secret")
    monkeypatch.setenv("UNDERSTUDY_KEYS", '["one-secret", "two-secret"]')
    monkeypatch.setenv("UNDERSTUDY_DATABASE_URL", "postgresql+psycopg://ada:l%40ce@db/understudy")
    shown = hidden("sk-us-secret, two-secret, l@ce, l%40ce, redis://user:word@host:1/0, host")
    assert shown == "***, ***, ***, ***, redis://***@host:1/0, host"


def test_a_broker_that_is_named_has_to_answer(place: Place, redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis)
    assert [one.state for one in machine.broker(place)] == ["ok"]
    monkeypatch.setenv("REDIS_URL", redis.replace("open-sesame", "guessed"))
    (found,) = machine.broker(place)
    assert found.state == "problem"
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")
    (found,) = machine.broker(place)
    assert found.state == "problem"
    assert "unset REDIS_URL" in found.fix


def test_a_broker_s_password_is_not_in_what_the_command_prints(
    place: Place, redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis)
    done = CliRunner().invoke(cli.app, ["doctor", "--home", str(place.home), "--json"])
    assert "redis://***@127.0.0.1" in done.output
    assert "open-sesame" not in done.output


def test_a_taken_port_names_who_has_it_and_what_to_do(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        usual = StackConfig(place.home, port=port, teacher_port=port, student_port=port)
        monkeypatch.setattr(machine, "StackConfig", lambda _: usual)
        found = list(machine.ports(place))
    assert {one.state for one in found} == {"warning"}
    assert f"process id {os.getpid()}" in found[0].says
    assert "--teacher-port 0" in found[1].fix


def test_a_service_that_is_not_ready_says_why_and_whose_clock_is_wrong(service: str, tmp_path: Path) -> None:
    found = {one.name: one for one in services.answering(Place(tmp_path, service))}
    assert found["orchestrator"].state == "problem"
    assert "the broker does not answer" in found["orchestrator"].says
    assert "s behind this one" in found["clock"].says


def test_a_service_that_was_named_and_is_away_is_a_problem_and_none_that_was_not(place: Place) -> None:
    assert [one.state for one in services.answering(Place(place.home, "http://127.0.0.1:9"))] == ["problem"]
    assert [one.state for one in services.answering(place)] == ["ok"]


def test_a_database_of_a_newer_version_is_a_problem_and_stays_as_it_is(place: Place) -> None:
    place.home.mkdir()
    file = place.home / "understudy.db"
    with sqlite3.connect(file) as sql:
        sql.execute("create table alembic_version (version_num varchar(32))")
        sql.execute("insert into alembic_version values ('9999')")
    (found,) = services.database(place)
    assert found.state == "problem"
    assert "9999" in found.says
    with sqlite3.connect(file) as sql:
        assert sql.execute("select version_num from alembic_version").fetchall() == [("9999",)]


def test_a_store_is_written_to_and_left_as_it_was(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.home / "artifacts").mkdir(parents=True)
    (found,) = services.artifacts(place)
    assert found.state == "ok"
    assert list((place.home / "artifacts").iterdir()) == []
    (place.home / "file").write_text("")
    monkeypatch.setenv("UNDERSTUDY_ARTIFACTS", str(place.home / "file"))
    (found,) = services.artifacts(place)
    assert found.state == "problem"


def test_nothing_is_made_where_nothing_is(place: Place) -> None:
    assert [one.state for probe in (services.artifacts, services.database) for one in probe(place)] == ["ok", "ok"]
    assert len(list(machine.disk(place))) == 1
    assert not place.home.exists()


def test_a_full_disk_is_a_problem(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "NO_DISK", 2**80)
    (found,) = machine.disk(place)
    assert found.state == "problem"
    assert "understudy gc" in found.fix


def test_packages_that_are_too_old_are_named_with_the_command(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "version", lambda name: "0.1" if name == "httpx" else "9999")
    found = {one.state: one for one in installed.packages(place) if "httpx" in one.says}
    assert found["problem"].fix.startswith("pip install 'httpx>=")


def test_offline_switches_are_told(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = installed.hub(place)
    assert (found.state, found.fix.split(",")[0]) == ("warning", "unset HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert [one.state for one in installed.hub(place)] == ["ok"]


@pytest.mark.parametrize("state", ["ok", "warning", "problem"])
def test_a_problem_ends_with_1(state: State, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.doctor.examine", lambda *_: iter([Finding("disk", state, "is so", "do that")]))
    done = CliRunner().invoke(cli.app, ["doctor", "--home", str(place.home)])
    assert done.exit_code == (1 if state == "problem" else 0)
    assert "→ do that" in done.stdout
    told = json.loads(CliRunner().invoke(cli.app, ["doctor", "--json"]).stdout)
    assert told == {
        "problems": int(state == "problem"),
        "findings": [{"name": "disk", "state": state, "says": "is so", "fix": "do that"}],
    }
