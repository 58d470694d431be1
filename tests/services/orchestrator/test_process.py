"""The API as a process, started and ended as the local stack does it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.orchestrator.__main__ import main as serve
from services.orchestrator.database import Database
from services.orchestrator.garbage import main as collect
from services.orchestrator.migrate import main as migrate_command
from services.orchestrator.migrate import migrate
from services.orchestrator.settings import Settings
from services.orchestrator.worker import main
from understudy.client import OrchestratorClient
from understudy.errors import Unauthorized

ROOT = Path(__file__).parents[3]


@pytest.mark.e2e
def test_the_api_serves_without_torch_and_without_a_broker_and_ends_when_told(
    tmp_path: Path, free_port: int, rows: Any
) -> None:
    environment = {
        **os.environ,
        "UNDERSTUDY_HOME": str(tmp_path / "home"),
        "UNDERSTUDY_PORT": str(free_port),
        "REDIS_URL": f"unix://{tmp_path}/nothing.sock",
    }
    environment.pop("UNDERSTUDY_BROKER_URL", None)
    process = subprocess.Popen([sys.executable, "-m", "services.orchestrator"], cwd=ROOT, env=environment)
    try:
        with OrchestratorClient(f"http://127.0.0.1:{free_port}") as client:
            deadline = time.monotonic() + 30
            while not client.ready():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            data = tmp_path / "rows.jsonl"
            data.write_text(rows(60))
            method = {"type": "distillation", "distillation": {"teacher": {"model": "teacher"}}}
            body = {"model": "scratch:bert-1x16", "training_file": client.upload(data), "method": method}
            job = client.create_job(body)
            assert client.job(job["id"])["status"] == "validating_files"
        assert not any("libtorch" in one.path for one in psutil.Process(process.pid).memory_maps())
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


@pytest.mark.e2e
def test_the_api_is_not_opened_to_other_machines_without_a_key(tmp_path: Path, free_port: int) -> None:
    """It says how to make one; with one it starts there, and asks for it. Made by the command line, as people do."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNDERSTUDY_")}
    environment |= {"UNDERSTUDY_PORT": str(free_port), "UNDERSTUDY_HOST": "0.0.0.0"}
    environment |= {"UNDERSTUDY_HOME": str(tmp_path / "home"), "REDIS_URL": f"unix://{tmp_path}/nothing.sock"}
    service = [sys.executable, "-m", "services.orchestrator"]
    refused = subprocess.run(service, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert refused.returncode == 1
    said = f"`understudy keys create NAME --scope submit --home {tmp_path / 'home'}`"
    assert said in refused.stderr
    assert "or listen on 127.0.0.1" in refused.stderr
    away = environment | {"UNDERSTUDY_DATABASE_URL": "postgresql+psycopg://nobody:secret@127.0.0.1:1/none"}
    unknown = subprocess.run(service, cwd=ROOT, env=away, capture_output=True, text=True, timeout=100)
    assert unknown.returncode == 1
    assert "cannot be used: connection failed" in unknown.stderr
    assert "secret" not in unknown.stderr
    program = "from understudy.cli import main; main()"
    make = [sys.executable, "-c", program, "keys", "create", "laptop", "--scope", "submit", "--expires", "90d"]
    made = subprocess.run(make, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    key = made.stdout.strip()
    assert key.startswith("sk-us-"), made.stderr
    assert key not in made.stderr
    process = subprocess.Popen(service, cwd=ROOT, env=environment)
    try:
        with OrchestratorClient(f"http://127.0.0.1:{free_port}", api_key=key) as client:
            deadline = time.monotonic() + 60
            while not client.ready():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert client.jobs() == []
        with OrchestratorClient(f"http://127.0.0.1:{free_port}") as client, pytest.raises(Unauthorized):
            client.jobs()
    finally:
        process.kill()
        process.wait()


Refusal = Callable[..., str]


@pytest.fixture(params=["orchestrator", "worker"])
def refusal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """What the service says instead of starting, behind that it does not."""

    def start(home: Path, database_url: str = "") -> str:
        monkeypatch.setenv("UNDERSTUDY_HOME", str(home))
        monkeypatch.setenv("UNDERSTUDY_DATABASE_URL", database_url)
        with pytest.raises(SystemExit) as caught:
            serve() if request.param == "orchestrator" else main([])
        told, reason = str(caught.value).split(": ", 1)
        assert told == f"the {request.param} does not start"
        return reason

    return start


def test_a_service_that_may_not_write_to_its_home_says_so(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"
    assert re.match(f"home is '{home}', and user .* set UNDERSTUDY_HOME", refusal(home))


def test_a_service_whose_database_is_away_says_so_in_one_line(refusal: Refusal, tmp_path: Path, free_port: int) -> None:
    url = f"postgresql+psycopg://someone:{{}}@127.0.0.1:{free_port}/understudy"
    said = refusal(tmp_path, url.format("secret"))
    assert re.fullmatch(rf"the database {re.escape(url.format('***'))} cannot be used: connection .* refused", said)


def test_a_service_whose_database_is_another_file_says_so_in_one_line(refusal: Refusal, tmp_path: Path) -> None:
    url = Settings(home=tmp_path).database
    Path(url.removeprefix("sqlite:///")).write_text("no database, but a file that is longer than nothing " * 9)
    assert refusal(tmp_path) == f"the database {url} cannot be used: file is not a database"


def test_a_service_of_an_older_version_than_its_database_says_so_in_one_line(refusal: Refusal, tmp_path: Path) -> None:
    database = Database(Settings(home=tmp_path).database)
    migrate(database)
    with database.write() as sql:
        sql.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    said = refusal(tmp_path)
    assert said.startswith("the database has revision 9999, which a newer version of Understudy made: ")
    assert "\n" not in said


@pytest.mark.parametrize("command", [migrate_command, collect])
def test_a_command_whose_database_is_away_says_so_in_one_line(
    command: Callable[[Sequence[str]], int],
    tmp_path: Path,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path))
    monkeypatch.setenv("UNDERSTUDY_DATABASE_URL", f"postgresql+psycopg://someone:secret@127.0.0.1:{free_port}/jobs")
    assert command([]) == 1
    said = capsys.readouterr().err
    assert f"the database postgresql+psycopg://someone:***@127.0.0.1:{free_port}/jobs cannot be used: conn" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--queues", "control,anotate"], "choose from annotate, control, train. Did you mean 'annotate'"),
        (["--queues", ","], "at least one queue"),
        (["--concurrency", "many"], "invalid int value"),
        (["--idle-exit", "0"], "'0' is no number of seconds above 0"),
        (["--idle-exit", "soon"], "'soon' is no number of seconds above 0"),
        (["--metrics", ":8003"], "':8003' is no address: give PORT, HOST:PORT or [IPv6]:PORT"),
        (["--metrics", "::1:8003"], "'::1:8003' is no address"),
        (["--metrics", "70000"], "'70000' is no address"),
    ],
)
def test_a_wrong_option_of_a_worker_says_what_would_be_right(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err
