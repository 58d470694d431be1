"""Disks that fill up and databases that are locked or full: each is a clear failure that a later try gets over."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from stand.processes import Stand, wait

from understudy.artifacts import ArtifactStore

pytestmark = pytest.mark.e2e

PREFLIGHT = 4


class Disk:
    """A small disk in memory, which a test fills and makes room on again."""

    def __init__(self, folder: Path, size: str) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")

    def fill(self) -> None:
        with suppress(OSError), (self.folder / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)

    def free(self) -> None:
        (self.folder / "ballast").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def disk() -> Iterator[Callable[[Path, str], Disk]]:
    made: list[Disk] = []

    def make(folder: Path, size: str) -> Disk:
        made.append(Disk(folder, size))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def on_disk(tmp_path: Path, disk: Any) -> Iterator[Callable[..., tuple[Stand, Disk]]]:
    """A stand of its own with one folder on a small disk."""
    made: list[Stand] = []

    def make(folder: str, size: str, **changes: Any) -> tuple[Stand, Disk]:
        small = disk(tmp_path / folder, size)
        made.append(Stand(tmp_path, **changes))
        return made[-1], small

    yield make
    for one in made:
        one.close()


@pytest.mark.slow
def test_a_full_disk_of_artifacts_is_named_and_costs_no_row_once_there_is_room(on_disk: Any, rows: str) -> None:
    stand, disk = on_disk("home/artifacts", "2m")
    stand.teacher.hold(after=PREFLIGHT)
    stand.annotator()
    job = stand.submit(rows)
    wait(lambda: stand.teacher.waiting)
    disk.fill()
    stand.teacher.release()
    wait(lambda: any("no space is left" in message for message in stand.messages(job)))
    assert not list(disk.folder.rglob("*.part"))
    disk.free()
    stand.check_annotated(job, rows)


@pytest.mark.slow
def test_a_disk_that_is_full_during_a_checkpoint_costs_an_attempt_only(on_disk: Any, rows: str) -> None:
    stand, disk = on_disk("home/work", "3m")
    stand.annotator()
    job = stand.submit(rows, hyperparameters={"max_steps": 400})
    stand.trainer()
    wait(lambda: list(disk.folder.glob("*/checkpoints/checkpoint-*/trainer_state.json")))
    disk.fill()
    wait(lambda: any("attempt 1 of 3" in message for message in stand.messages(job)))
    disk.free()
    stand.check(job, rows)


def test_a_full_disk_of_the_database_delays_and_loses_nothing(on_disk: Any, rows: str, tmp_path: Path) -> None:
    stand, disk = on_disk("home", "8m", artifacts=str(tmp_path / "store"))
    stand.teacher.hold(after=PREFLIGHT + 1)
    stand.annotator()
    job = stand.submit(rows)
    wait(lambda: stand.teacher.waiting)
    disk.fill()
    stand.teacher.release()
    time.sleep(1.0)
    with pytest.raises(OperationalError, match="full"):
        stand.context.jobs.update(job.id, "paused")
    disk.free()
    stand.check_annotated(job, rows)


def test_a_database_that_is_locked_for_longer_than_a_lease_costs_no_attempt(stand: Stand, rows: str) -> None:
    stand.teacher.hold(after=PREFLIGHT + 1)
    job = stand.submit(rows)
    wait(lambda: stand.teacher.waiting)
    other = sqlite3.connect(stand.settings.home / "understudy.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    stand.teacher.release()
    time.sleep(stand.settings.lease_seconds + 0.5)
    other.execute("ROLLBACK")
    other.close()
    stand.check_annotated(job, rows)


@pytest.mark.parametrize("room", [5000, 9000, 12_000])
def test_an_artifact_for_which_there_is_no_room_leaves_no_file_behind(disk: Any, tmp_path: Path, room: int) -> None:
    small = disk(tmp_path / "small", "64k")
    made = tmp_path / "made"
    made.mkdir()
    (made / "a.bin").write_bytes(b"a" * (60_000 - room))
    (made / "b.bin").write_bytes(b"b" * 20_000)
    store = ArtifactStore(small.folder)
    with pytest.raises(OSError, match="No space left"):
        store.publish("model", made)
    assert not list(small.folder.rglob("*.part"))
    assert store.list("model") == []
    (made / "b.bin").write_bytes(b"b")
    assert store.folder(store.publish("model", made).id)
