"""What a stack tells its services, and folders in which none can work. What a stack does is in `e2e`."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.errors import InvalidRequest
from understudy.stack import Stack, StackConfig


def test_a_stack_that_others_may_reach_starts_its_teacher_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack(StackConfig(tmp_path, host="0.0.0.0"))
    stack._ports = {"orchestrator": 1, "teacher": 2, "student": 3}
    assert stack._environment("redis://x")["UNDERSTUDY_TEACHER_ALLOW_ANONYMOUS"] == "true"
    monkeypatch.setenv("UNDERSTUDY_TEACHER_ALLOW_ANONYMOUS", "false")
    assert stack._environment("redis://x")["UNDERSTUDY_TEACHER_ALLOW_ANONYMOUS"] == "false"


@pytest.mark.parametrize("home", ["a-file", "a-file/below", "x" * 300])
def test_a_home_that_can_hold_no_files_is_one_clear_error(home: str, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    with (
        pytest.raises(InvalidRequest, match=r"cannot hold the stack's files .*--home"),
        Stack(StackConfig(tmp_path / home)),
    ):
        pass


def test_a_path_that_sqlite_could_not_open_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 200) / ("y" * 200)
    with pytest.raises(InvalidRequest, match=r"longer than 400 bytes.*--home"), Stack(StackConfig(deep)):
        pass
    assert not deep.exists()
