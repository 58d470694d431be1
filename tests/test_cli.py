"""What the command line says of an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from understudy import cli
from understudy.client import OrchestratorClient
from understudy.commands import distill
from understudy.commands.fields import JOB_OPTIONS
from understudy.commands.service import settings_of
from understudy.errors import InvalidRequest, Unauthorized, UnderstudyError
from understudy.schemas import DistillationSpec
from understudy.stack import hold_home


def _said(error: UnderstudyError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("param", "shown"),
    [
        ("method.distillation.teacher.model", "Error (--teacher, --finetune-teacher): no [b]such[/b] thing"),
        ("inputs[0].text", "Error (inputs[0].text): no [b]such[/b] thing"),
        (None, "Error: no [b]such[/b] thing"),
    ],
)
def test_an_error_names_the_option_at_fault(
    param: str | None, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown in _said(InvalidRequest("no [b]such[/b] thing", param=param), monkeypatch, capsys)


def test_every_option_that_an_error_names_exists() -> None:
    shown = CliRunner().invoke(cli.app, ["distill", "--help"], env={"COLUMNS": "200"}).output
    for options in JOB_OPTIONS.values():
        assert all(option.lower() in shown.lower() for option in options.split(", "))


def test_every_field_that_is_told_as_an_option_exists() -> None:
    for param in JOB_OPTIONS:
        name = param.removeprefix("method.distillation.").partition(".")[0]
        assert not param.startswith("method.") or name in DistillationSpec.model_fields


@pytest.mark.parametrize(
    ("attribution", "words"),
    [("salience", "saliency"), ("integrated_gradients:n_steps", "setting=value"), ("saliency:steps=3", "steps")],
)
def test_a_method_of_explaining_that_cannot_be_read_is_the_option_at_fault(
    attribution: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnderstudyError) as caught:
        distill._explained_by(attribution)
    said = _said(caught.value, monkeypatch, capsys)
    assert said.startswith("Error (--attribution): ")
    assert words in said


def test_who_is_not_let_in_is_told_how_to_send_a_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _said(Unauthorized("this service needs an API key"), monkeypatch, capsys)
    assert "UNDERSTUDY_API_KEY" in said
    assert "understudy keys create NAME --scope submit" in said


def test_keys_are_made_shown_once_listed_and_revoked(tmp_path: Path) -> None:
    def run(*arguments: str, json_too: bool = True) -> Any:
        more = ["--home", str(tmp_path), *(["--json"] if json_too else [])]
        done = CliRunner().invoke(cli.app, ["keys", *arguments, *more])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout) if json_too else done.stdout

    made = run("create", "laptop", "--scope", "submit", "--expires", "90d", "--max-active-jobs", "3")
    assert made["expires_at"] - made["created_at"] == pytest.approx(90 * 86_400)
    shown = run("list", json_too=False)
    assert made["id"] in shown
    assert "3 active jobs" in shown
    assert made["key"] not in shown
    assert run("revoke", made["id"])["state"] == "revoked"
    assert [one["state"] for one in run("list")] == ["revoked"]


@pytest.mark.parametrize(
    ("arguments", "param"),
    [(["create", "x", "--scope", "read", "--expires", "soon"], "--expires"), (["revoke", "key-none"], "id")],
)
def test_a_wrong_key_command_is_one_clear_error(arguments: list[str], param: str, tmp_path: Path) -> None:
    CliRunner().invoke(cli.app, ["keys", "create", "first", "--scope", "read", "--home", str(tmp_path)])
    done = CliRunner().invoke(cli.app, ["keys", *arguments, "--home", str(tmp_path)])
    assert isinstance(done.exception, UnderstudyError)
    assert done.exception.param == param


@pytest.mark.parametrize("arguments", [["keys", "list"], ["keys", "revoke", "key-none"]])
def test_keys_of_a_place_where_no_service_has_run_are_not_told_of(arguments: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, [*arguments, "--home", str(tmp_path / "wrong")])
    assert isinstance(done.exception, UnderstudyError)
    assert (done.exception.code, done.exception.param) == ("not_found", "home")
    assert "no service has run there" in done.exception.message
    assert not (tmp_path / "wrong").exists()


def test_commands_beside_a_database_mean_the_named_folder_else_the_settings_else_the_stack_that_runs_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("UNDERSTUDY_HOME", "UNDERSTUDY_DATABASE_URL", "UNDERSTUDY_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    assert "UNDERSTUDY_HOME" not in settings_of(None)
    running = Path(".understudy/quickstart")
    with hold_home(running):
        (running / "stack.json").write_text('{"orchestrator": "http://127.0.0.1:1"}')
        assert settings_of(None)["UNDERSTUDY_HOME"] == str(tmp_path / running)
        monkeypatch.setenv("UNDERSTUDY_DATABASE_URL", "sqlite:////else/where.db")
        monkeypatch.setenv("UNDERSTUDY_ARTIFACTS", "/else/where")
        assert "UNDERSTUDY_HOME" not in settings_of(None)
    named = settings_of(Path("mine"))
    assert named["UNDERSTUDY_HOME"] == str(tmp_path / "mine")
    assert named["UNDERSTUDY_ARTIFACTS"] == str(tmp_path / "mine" / "artifacts")
    assert named["UNDERSTUDY_DATABASE_URL"] == ""


@pytest.mark.parametrize("key", ["two words", "line\n", "schl\u00fcssel"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(InvalidRequest, match="printable ASCII") as caught:
        OrchestratorClient("http://127.0.0.1:1", api_key=key)
    assert key not in str(caught.value)
