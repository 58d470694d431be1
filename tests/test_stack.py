"""Folders in which no stack can work, said before anything starts. What a stack does is in `e2e`."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.errors import InvalidRequest
from understudy.stack import Stack, StackConfig


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
