"""What a stack tells its services, and folders in which none can work. What a stack does is in `e2e`."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.errors import InvalidRequest
from understudy.stack import Stack, StackConfig


def environment(home: Path, host: str) -> dict[str, str]:
    stack = Stack(StackConfig(home, host=host))
    stack._ports = {"orchestrator": 1, "teacher": 2, "student": 3}
    return stack._environment("redis://x")


def test_a_stack_that_others_may_reach_opens_none_of_its_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher and the orchestrator share a key; the student and the orchestrator ask people for theirs."""
    for name in ("API_KEYS", "API_KEYS_FILE", "ALLOW_ANONYMOUS"):
        monkeypatch.delenv(f"UNDERSTUDY_TEACHER_{name}", raising=False)
    open_to_others = environment(tmp_path, "0.0.0.0")
    assert open_to_others["UNDERSTUDY_TEACHER_API_KEYS"] == open_to_others["UNDERSTUDY_TEACHER_API_KEY"]
    assert open_to_others["UNDERSTUDY_TEACHER_API_KEY"].startswith("sk-us-")
    assert not any(name.endswith("ALLOW_ANONYMOUS") for name in open_to_others)
    assert "UNDERSTUDY_TEACHER_API_KEYS" not in environment(tmp_path, "127.0.0.1")
    monkeypatch.setenv("UNDERSTUDY_TEACHER_ALLOW_ANONYMOUS", "true")
    assert "UNDERSTUDY_TEACHER_API_KEYS" not in environment(tmp_path, "0.0.0.0")


@pytest.mark.parametrize("home", ["a-file", "a-file/below", "x" * 300])
def test_a_home_that_can_hold_no_files_is_one_clear_error(home: str, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    with (
        pytest.raises(InvalidRequest, match=r"cannot hold the stack's files .*--home"),
        Stack(StackConfig(tmp_path / home)),
    ):
        pass


def test_the_orchestrator_may_ask_a_student_that_wants_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDERSTUDY_STUDENT_API_KEYS", raising=False)
    monkeypatch.delenv("UNDERSTUDY_STUDENT_API_KEY", raising=False)
    open_student = environment(tmp_path, "127.0.0.1")
    assert open_student["UNDERSTUDY_STUDENT_URL"] == "http://127.0.0.1:3"
    assert "UNDERSTUDY_STUDENT_API_KEY" not in open_student
    monkeypatch.setenv("UNDERSTUDY_STUDENT_API_KEYS", f"sha256:{'0' * 64},sk-one,sk-two")
    assert environment(tmp_path, "127.0.0.1")["UNDERSTUDY_STUDENT_API_KEY"] == "sk-one"
    monkeypatch.setenv("UNDERSTUDY_STUDENT_API_KEY", "sk-chosen")
    assert "UNDERSTUDY_STUDENT_API_KEY" not in environment(tmp_path, "127.0.0.1")


def test_a_path_that_sqlite_could_not_open_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 200) / ("y" * 200)
    with pytest.raises(InvalidRequest, match=r"longer than 400 bytes.*--home"), Stack(StackConfig(deep)):
        pass
    assert not deep.exists()
