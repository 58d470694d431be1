"""What the README shows is true: its Python runs, its files and make targets exist."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from understudy.testing import tiny_classifier

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_in_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_classifier(tmp_path / "model", labels=("files", "networking"))
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code.replace("path/or/hub-name", str(folder)), {})
    words = ast.literal_eval(capsys.readouterr().out)
    assert set(words) <= {"Open", "a", "TCP", "socket"}
    assert len(words) == 3


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_its_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make ([a-z0-9]+)", README, re.MULTILINE))))
def test_its_make_targets_exist(target: str) -> None:
    done = subprocess.run(["make", "-n", target], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
