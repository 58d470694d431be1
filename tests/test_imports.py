"""The rules of who may import whom; the layers themselves are written in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _loaded(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(' '.join(sorted(name for name in sys.modules if '.' not in name)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_the_import_contracts_hold() -> None:
    tool = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([tool, "--no-cache"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("statement", "never"),
    [
        ("import services.orchestrator.app", {"torch", "transformers", "captum"}),
        ("import services.orchestrator.worker", {"torch", "transformers", "captum"}),
        ("import services.teacher.app", {"celery", "sqlalchemy"}),
        ("import services.student.app", {"celery", "sqlalchemy"}),
        ("import understudy.cli", {"torch", "transformers", "celery", "sqlalchemy"}),
        ("import understudy.client", {"torch", "fastapi"}),
    ],
)
def test_a_process_loads_only_what_it_needs(statement: str, never: set[str]) -> None:
    assert _loaded(statement) & never == set()
