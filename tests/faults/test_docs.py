"""docs/durability.md names tests and settings that there are, and leaves no test of a fault out."""

from __future__ import annotations

import re
from pathlib import Path

from stand.processes import ROOT

from services.orchestrator.settings import Settings
from understudy.schemas import DistillationSpec

TEXT = (ROOT / "docs" / "durability.md").read_text(encoding="utf-8")


def names_in(folder: Path) -> set[str]:
    found: set[str] = set()
    for file in folder.rglob("test_*.py"):
        if file != Path(__file__):
            found |= set(re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE))
    return found


def test_every_test_that_the_table_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 20
    assert named <= names_in(ROOT / "tests")


def test_every_fault_that_is_tested_is_in_the_table() -> None:
    said_elsewhere = {
        "test_a_job_that_is_submitted_while_the_broker_is_away_runs_once_it_is_back",
        "test_a_worker_takes_no_message_that_it_has_no_thread_for",
    }
    assert names_in(ROOT / "tests" / "faults") - said_elsewhere <= set(re.findall(r"`(test_\w+)`", TEXT))


def test_the_settings_and_fields_have_the_defaults_that_are_told() -> None:
    for name, default in re.findall(r"^\| `UNDERSTUDY_(\w+)` \| `(\S+)` \|", TEXT, re.MULTILINE):
        assert float(default) == Settings.model_fields[name.lower()].default, name
    for name in ("on_failed_shard", "max_failed_share"):
        assert f"| `{name}` | `{DistillationSpec.model_fields[name].default}` |" in TEXT
