"""What the command line says of an error."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from understudy import cli
from understudy.errors import InvalidRequest, UnderstudyError
from understudy.schemas import DistillationSpec


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
    for options in cli.OPTIONS.values():
        assert all(option.lower() in shown.lower() for option in options.split(", "))


def test_every_field_that_is_told_as_an_option_exists() -> None:
    for param in cli.OPTIONS:
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
        cli._explained_by(attribution)
    said = _said(caught.value, monkeypatch, capsys)
    assert said.startswith("Error (--attribution): ")
    assert words in said
