"""A training that ends while it writes a checkpoint: the next worker goes on from the one before, to the same model.

The moment is held fast by a pipe in the place of a file of the checkpoint: who writes it waits for a reader that never
comes.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from stand.processes import Stand, is_gone, training_children, wait

from services.orchestrator.jobs import Job

pytestmark = pytest.mark.e2e

LONG = {"n_epochs": 200}  # of 4 steps each: a checkpoint every 80 steps
EVERY, LAST = 80, 800
ASIDE = {"seconds", "model", "environment"}  # of a result: how long it took, where it lay, which commit was checked out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_that_ends_while_it_writes_a_checkpoint_goes_on_to_the_same_model(stand: Stand, rows: str) -> None:
    calm = trained(stand, ended(stand, stand.submit(rows, hyperparameters=LONG), rows))
    for signals in (("SIGTERM",), ("SIGTERM", "SIGTERM"), ("SIGKILL",)):
        job = stand.submit(rows, hyperparameters=LONG)
        before = end_while_it_writes(stand, job, signals)
        done = ended(stand, job, rows)
        found = trained(stand, done)
        assert {name: (found[name], calm[name]) for name in calm if found[name] != calm[name]} == {}, signals
        # What was behind the whole checkpoint was not done again; the one that was cut off was.
        assert validated(stand, done) == {step: 1 + (step == before + EVERY) for step in range(EVERY, LAST + 1, EVERY)}


def ended(stand: Stand, job: Job, rows: str) -> Job:
    stand.trainer()
    stand.ended(job, 200)
    return stand.check(job, rows)


def end_while_it_writes(stand: Stand, job: Job, signals: tuple[str, ...]) -> int:
    """End the worker while its training waits in the middle of a checkpoint; gives the last step that is whole."""
    worker = stand.trainer()
    (item,) = wait(lambda: stand.context.flow.items(job.id, "train"))
    checkpoints = stand.settings.work / item.id / "checkpoints"
    (child,) = wait(lambda: list(checkpoints.glob("*/trainer_state.json")) and training_children(worker))
    os.kill(child, signal.SIGSTOP)
    last = max(int(path.name.rpartition("-")[2]) for path in checkpoints.iterdir())
    cut = checkpoints / f"checkpoint-{last + EVERY}"
    cut.mkdir()
    os.mkfifo(cut / "optimizer.pt")
    os.kill(child, signal.SIGCONT)
    wait(lambda: (cut / "model.safetensors").is_file() and waits_for_a_reader(child))
    for name in signals:
        worker.send_signal(signal.Signals[name])
    worker.wait(60)
    wait(lambda: is_gone(child), 20)
    (cut / "optimizer.pt").unlink()
    (cut / "optimizer.pt").write_bytes(b"PK")  # as much as had been written
    assert not (cut / "trainer_state.json").exists()
    return last


def waits_for_a_reader(pid: int) -> bool:
    """Whether one of the process's threads stands in the opening of a pipe."""
    return any("wait_for_partner" in (task / "wchan").read_text() for task in Path(f"/proc/{pid}/task").iterdir())


def trained(stand: Stand, job: Job) -> Mapping[str, Any]:
    """The figures of a job's one training, and the hash of its weights."""
    (item,) = stand.context.flow.items(job.id, "train")
    assert item.result is not None
    figures = {name: value for name, value in item.result["result"].items() if name not in ASIDE}
    return figures | {"weights": stand.context.artifacts.get(item.result["artifact"]).files["model.safetensors"]}


def validated(stand: Stand, job: Job) -> Mapping[int, int]:
    """How often each step was validated."""
    told = (re.search(r"step (\d+)/\d+.*validation accuracy", message) for message in stand.messages(job))
    return Counter(int(match[1]) for match in told if match)
