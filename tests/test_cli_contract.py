"""What docs/cli.md promises of every command: that it is there, prints JSON, and ends with a status of the table."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from understudy import cli, errors
from understudy.commands.exits import EPILOG, MEANINGS, Exit
from understudy.display_jobs import ADVICE, job_view, jobs_view

ROOT = Path(__file__).parents[1]
DOCUMENTED = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
UNDERSTUDY = str(Path(sys.executable).parent / "understudy")


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


COMMANDS = dict(_commands(typer.main.get_command(cli.app)))


def test_the_table_of_commands_is_the_commands() -> None:
    section = DOCUMENTED.partition("## Commands")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z ]+)` \|", section, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_json_where_it_is_asked_to(name: str) -> None:
    assert any("--json" in option.opts for option in COMMANDS[name].params)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_in_a_sentence_what_it_does(name: str) -> None:
    assert re.match(r"[A-Z].{20,}[.\w]", COMMANDS[name].help or "")
    assert not re.search(r"\bstub\b|TODO", COMMANDS[name].help or "")


def test_the_table_of_exit_statuses_is_the_code_s() -> None:
    section = DOCUMENTED.partition("## Exit statuses")[2].partition("\n## ")[0]
    listed = dict(re.findall(r"^\| (\d+) \| (.+) \|$", section, re.MULTILINE))
    assert listed == {str(int(status)): meaning for status, meaning in MEANINGS.items()}
    assert all(re.search(rf"\b{int(status)}\b", EPILOG) for status in Exit)


def test_help_tells_the_exit_statuses() -> None:
    shown = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "200"}).output
    assert "3 the job failed" in shown


def test_help_loads_no_library_that_is_slow_to_import() -> None:
    """Half of a second is what a person notices; what costs it is these."""
    code = "import sys; from understudy.cli import app; app(['--help'], standalone_mode=False)\n"
    code += "print(*({'torch', 'transformers', 'numpy', 'pyarrow', 'pydantic'} & set(sys.modules)), 'loaded')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "loaded"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["jbos", "list"], "Did you mean 'jobs'"),
        (["jobs", "lst"], "Did you mean 'list'"),
        (["jobs", "list", "--sate", "failed"], "--state"),
        (["jobs", "list", "--state", "runing"], "Did you mean 'running'"),
        (["jobs", "list", "--metadata", "team"], "KEY=VALUE"),
        (["predict"], "Missing argument"),
        (["predict", "x", "--top-k", "0"], "--top-k"),
    ],
)
def test_a_wrong_use_ends_with_2_and_says_what_was_probably_meant(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == Exit.USE
    assert words in re.sub(r"[\s│]+", " ", done.output)
    assert done.stdout == ""


def _completed(words: str, **environment: str) -> list[str]:
    count = str(len(words.split(" ")) - 1)
    shell = {"_UNDERSTUDY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
    done = subprocess.run(
        [UNDERSTUDY], env={**os.environ, **shell, **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("understudy jo", ["jobs"]),
        ("understudy jobs pa", ["pause"]),
        ("understudy jobs list --state succ", ["succeeded"]),
        ("understudy distill rows.csv --recipe logit", ["logit_kd"]),
        ("understudy attribute text --method integrated", ["integrated_gradients"]),
        ("understudy distill rows.csv --student scratch:b", ["scratch:bert-2x128"]),
        ("understudy jobs show --url http://127.0.0.1:9 ftjob", []),
        ("understudy predict text --model prod --artifacts /nowhere/at/all", []),
    ],
)
def test_the_shell_is_offered_values_and_no_error(words: str, offered: list[str]) -> None:
    assert _completed(words) == offered


def test_the_shell_is_offered_the_aliases_of_the_store(tmp_path: Path) -> None:
    from understudy.artifacts import ArtifactStore

    store = ArtifactStore(tmp_path / "artifacts")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    store.set_alias("production", store.publish("model", tmp_path / "model").id)
    assert _completed(f"understudy models show --home {tmp_path} prod") == ["production"]


def test_completion_can_be_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{UNDERSTUDY} --install-completion; exit $?"],  # it looks which shell has called it
        env={**os.environ, "HOME": str(tmp_path), "SHELL": "/bin/bash"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == Exit.OK, done.stderr
    assert "_UNDERSTUDY_COMPLETE" in (tmp_path / ".bash_completions" / "understudy.sh").read_text()


def test_an_orchestrator_that_is_away_is_said_with_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [UNDERSTUDY, "jobs", "list", "--json", "--url", "http://127.0.0.1:9", "--home", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == Exit.NO
    assert done.stdout == ""
    assert "does not answer" in done.stderr
    assert "`understudy up` starts a stack" in done.stderr


def test_json_of_a_list_is_a_list(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["models", "list", "--home", str(tmp_path), "--json"])
    assert json.loads(done.stdout) == []


def _job(**changes: Any) -> dict[str, Any]:
    """A job as it comes over the wire, as far as it is shown."""
    phase = {"phase": "train", "state": "failed", "completed": 3, "total": 4, "unit": "steps", "percent": 75.0}
    job = {
        "id": f"ftjob-{'0' * 24}",
        "status": "failed",
        "phase": "train",
        "model": "scratch:bert-1x16",
        "phases": [phase],
    }
    job |= {"created_at": 1_795_280_000, "finished_at": 1_795_280_060, "fine_tuned_model": None, "alias": "production"}
    job |= {"method": {"type": "distillation", "distillation": {"teacher": {"model": "teacher"}}}, "progress": phase}
    job |= {"spent": {"seconds": 61.0, "seconds_by_phase": {"train": 61.0}, "teacher_tokens": 1234}}
    return job | {"error": {"code": "unavailable", "message": "no teacher answers", "param": None}} | changes


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_of_jobs_keeps_ids_whole_in_a_terminal(width: int) -> None:
    shown = io.StringIO()
    made = _job(status="succeeded", error=None, fine_tuned_model=f"model-{'a' * 24}")
    Console(file=shown, width=width).print(jobs_view([made, _job()]))
    for words in (f"ftjob-{'0' * 24}", f"model-{'a' * 24}", "succeeded", "failed", "no teacher answers"):
        assert words in re.sub(r"\s+", " ", shown.getvalue())


@pytest.mark.parametrize(
    ("error", "option", "words"),
    [
        ({"code": "unavailable", "message": "m"}, None, "understudy doctor"),
        ({"code": "budget_exhausted", "message": "m"}, None, "--budget-seconds"),
        ({"code": "unknown_name", "message": "m"}, "--recipe", "Change --recipe"),
        ({"code": "something_new", "message": "m"}, None, "--dry-run"),
    ],
)
def test_a_job_that_failed_is_shown_with_what_to_do(error: dict[str, str], option: str | None, words: str) -> None:
    shown = io.StringIO()
    Console(file=shown, width=200).print(job_view(_job(error=error), [], option))
    assert words in shown.getvalue()
    assert "1 min 1 s of workers · 1,234 teacher tokens" in shown.getvalue()
    assert "✗ train" in shown.getvalue()


def test_every_code_that_there_is_advice_for_is_one_of_an_error() -> None:
    assert set(ADVICE) <= {
        kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")
    }
