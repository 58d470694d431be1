"""The planner's arithmetic, on numbers that can be checked by hand; its constants are the benchmarks'."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from understudy.capacity import GPUS, HELD_OUT, STATEMENTS_PER_SECOND, Asked, Measured, count, measured, plan
from understudy.cli import app
from understudy.errors import InvalidRequest

ROOT = Path(__file__).parents[1]
KNOWN = Measured(
    processor="a core",
    annotate_cpu_seconds_per_1000_rows=0.36,
    validate_seconds_per_1000_rows=0.036,
    statements_per_shard=10,
    database_bytes_per_shard=1000,
    shard_rows=100,
    dataset_bytes_per_text_byte=0.5,
    shard_bytes_per_text_byte=4,
)


def by_name(asked: Asked) -> dict[str, float]:
    return {stage.name: stage.hours for stage in plan(asked, KNOWN).stages}


def test_each_stage_is_its_arithmetic() -> None:
    asked = Asked(
        examples=10**7,
        teacher=10**9,
        student=10**8,
        tokens=100,
        gpu="a100",
        gpus=4,
        utilisation=0.5,
        annotators=2,
        trainings=6,
        test_rows=10**6,
    )
    found = by_name(asked)
    speed = 312e12 * 0.5
    assert found["validate"] == pytest.approx(0.036 * 11_000 / 3600)
    assert found["teacher"] == pytest.approx(4 * 1e9 * 1e9 / speed / 4 / 3600)
    assert found["orchestrate"] == pytest.approx(0.36 * 10_000 / 2 / 3600)
    assert found["database"] == pytest.approx(10 * 25_000 / STATEMENTS_PER_SECOND / 3600)  # shards of 400
    assert found["train"] == pytest.approx(2 * 6 * 1e8 * 1e9 / speed / 3600)  # six trainings on four GPUs: two turns
    assert found["evaluate"] == pytest.approx(2 * (6 * 1e8 + 1e9) * 1e8 / speed / 3600)


def test_stages_side_by_side_take_as_long_as_the_longest() -> None:
    asked = Asked(examples=10**6, teacher=10**9, annotators=1, test_rows=100)
    found, hours = plan(asked, KNOWN), by_name(asked)
    beside = max(hours[name] for name in ("teacher", "orchestrate", "database"))
    assert found.hours == pytest.approx(beside + hours["validate"] + hours["train"] + hours["evaluate"])
    assert found.first == max(hours, key=hours.__getitem__)


def test_a_measured_pace_takes_the_place_of_the_assumed_one() -> None:
    asked = Asked(examples=3600, teacher=10**9, tokens=10, tokens_per_second=10, gpus=2, passes=20)
    assert by_name(asked)["teacher"] == pytest.approx(0.5)
    assert not any("TFLOP" in line for line in plan(asked, KNOWN).assumed)


def test_more_of_everything_takes_more_and_more_machines_take_less() -> None:
    base = Asked(examples=10**8, teacher=3 * 10**9)
    for change in ({"examples": 10**9}, {"teacher": 10**10}, {"tokens": 256}, {"passes": 20}, {"epochs": 2.0}):
        assert plan(base.model_copy(update=change), KNOWN).hours > plan(base, KNOWN).hours, change
    for change in ({"gpus": 8}, {"utilisation": 0.6}, {"gpu": "b200"}, {"test_rows": 10_000}):
        assert plan(base.model_copy(update=change), KNOWN).hours < plan(base, KNOWN).hours, change


def test_cost_disk_and_rows() -> None:
    asked = Asked(examples=800, teacher=10**9, student=10**6, tokens=100, trainings=2, gpu_hour=2.0, cpu_hour=0.1)
    found = plan(asked, KNOWN)
    assert found.cost == pytest.approx(2 * found.gpu_hours + 0.1 * found.cpu_hours)
    text = 1000 * 450  # a fifth of all rows is the test split
    assert found.bytes["uploaded files"] == pytest.approx(text)
    assert found.bytes["data set"] == pytest.approx(text / 2)
    assert found.bytes["shards"] == pytest.approx(0.8 * text * 4)
    assert found.bytes["database"] == 8 * 1000
    assert found.database_rows == 808
    assert plan(asked.model_copy(update={"gpu_hour": None, "cpu_hour": None}), KNOWN).cost is None
    assert HELD_OUT == 0.2


def test_what_cannot_work_is_said() -> None:
    large = plan(Asked(examples=1000, teacher=70 * 10**9, gpu="h100"), KNOWN)
    assert any("130 GiB" in wall and "h100" in wall for wall in large.walls)
    many = plan(Asked(examples=10**8, teacher=10**9), KNOWN)
    assert any("25,000,000 test rows" in wall for wall in many.walls)
    assert plan(Asked(examples=10**8, teacher=10**9, test_rows=10_000), KNOWN).walls == ()


def test_counts_are_read_as_people_write_them() -> None:
    assert [count(text) for text in ("1e9", "3b", "780M", "250_000", "1,000", "2.5k")] == [
        10**9,
        3 * 10**9,
        780 * 10**6,
        250_000,
        1000,
        2500,
    ]
    for wrong in ("", "b", "many", "-3", "0", "nan", "inf", "1e30"):
        with pytest.raises(InvalidRequest, match="is no count"):
            count(wrong)


def test_wrong_options_are_named() -> None:
    run = CliRunner().invoke(app, ["plan", "--examples", "lots", "--teacher", "3b"])
    assert run.exit_code == 2
    assert "--examples" in run.output
    run = CliRunner().invoke(app, ["plan", "--examples", "1e6", "--teacher", "3b", "--gpu", "abacus"])
    assert run.exit_code == 2
    assert all(name in run.output for name in GPUS)


def test_json_is_the_whole_plan() -> None:
    run = CliRunner().invoke(app, ["plan", "--examples", "1e6", "--teacher", "3b", "--json"])
    told = json.loads(run.stdout)
    assert told["asked"]["examples"] == 10**6
    again = plan(Asked.model_validate(told["asked"]))
    assert {name: told[name] for name in again.model_dump()} == json.loads(again.model_dump_json())


def test_the_constants_are_those_of_the_result_files() -> None:
    made = Measured.model_validate(runpy.run_path(str(ROOT / "benchmarks" / "constants.py"))["constants"]())
    for name, value in measured():
        if "text_byte" in name:  # other versions of Python come with other texts
            assert getattr(made, name) == pytest.approx(value, rel=0.1), name
        else:
            assert getattr(made, name) == value, name


def test_the_page_shows_what_the_command_prints() -> None:
    page = (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n\$ understudy (.*?)\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    for command, printed in blocks:
        run = CliRunner().invoke(app, command.split())
        assert [line.rstrip() for line in run.stdout.splitlines()] == printed.splitlines(), command
