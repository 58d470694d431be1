"""Workers and trainings that are killed or stand still, and jobs that are cancelled at any moment of their lives."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stand.processes import Stand, is_gone, training_children, wait

from services.orchestrator.jobs import ENDED, Event, Job
from understudy.artifacts import ArtifactStore
from understudy.data.parquet import read_examples
from understudy.errors import Conflict

pytestmark = pytest.mark.e2e

ENDLESS = {"n_epochs": 1000}  # 60 rows are 4 steps each; it is checkpointed ten times
PREFLIGHT = 4  # requests: 16 examples, 4 at a time


@pytest.mark.slow
def test_a_training_whose_process_is_killed_is_tried_again(stand: Stand, rows: str) -> None:
    job = stand.submit(rows, hyperparameters={"max_steps": 300})
    (child,) = wait(lambda: training_children(stand.trainer()))
    wait(lambda: stand.states(job, "train")["running"])
    os.kill(child, signal.SIGKILL)
    done = stand.check(job, rows)
    assert any("SIGKILL" in message for message in stand.messages(done))
    assert [item.attempts for item in stand.context.flow.items(job.id, "train")] == [2]


def test_a_worker_that_stands_still_past_its_lease_is_refused_when_it_wakes_up(stand: Stand, rows: str) -> None:
    stand.teacher.hold(after=PREFLIGHT + 1)
    job = stand.submit(rows)
    wait(lambda: stand.teacher.waiting)
    worker = stand.annotator()
    late = [item for item in stand.context.flow.items(job.id, "annotate") if item.state == "running"]
    worker.send_signal(signal.SIGSTOP)
    stand.teacher.release()
    del stand.workers["control", "annotate"]
    try:
        stand.annotator()
        wait(lambda: stand.get(job).phase == "train")  # without it
        before = stand.context.flow.items(job.id, "annotate")
        worker.send_signal(signal.SIGCONT)
        time.sleep(0.5)
        assert stand.context.flow.items(job.id, "annotate") == before
        assert all(before[item.index].token == 2 and before[item.index].worker != item.worker for item in late)
        assert worker.poll() is None
    finally:
        stand.kill(worker)
    stand.check_annotated(job, rows)


@pytest.mark.slow
def test_a_training_is_never_done_by_two_children_in_one_folder(stand: Stand, rows: str) -> None:
    stand.trainer()
    job = stand.submit(rows, hyperparameters=ENDLESS)
    wait(lambda: list(stand.settings.work.glob("*/checkpoints/checkpoint-*/trainer_state.json")))
    worker = stand.trainer()
    (first,) = training_children(worker)
    worker.send_signal(signal.SIGSTOP)
    del stand.workers[("train",)]
    try:
        second = wait(lambda: training_children(stand.trainer()))
        wait(lambda: is_gone(first), 20)  # its worker could not end it
        wait(lambda: stand.context.flow.items(job.id, "train")[0].completed > 10)
        worker.send_signal(signal.SIGCONT)
        time.sleep(1.0)
        (item,) = stand.context.flow.items(job.id, "train")
        assert item.attempts == 2
        assert item.state == "done" or not is_gone(second[0])
    finally:
        stand.kill(worker)
    stand.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))
    stand.check(job, rows, "cancelled")


POISON = "The book number 59"  # one row alone


@contextmanager
def poisoned(stand: Stand) -> Iterator[None]:
    """The worker that asks about the poison dies of it each time, and somebody starts the next one each time."""
    ended = threading.Event()

    def kill(body: bytes) -> None:
        if POISON.encode() in body:
            os.kill(stand.annotator().pid, signal.SIGKILL)

    def keep_alive() -> None:
        while not ended.wait(0.05):
            stand.annotator()

    stand.teacher.before = kill
    supervisor = threading.Thread(target=keep_alive)
    supervisor.start()
    try:
        yield
    finally:
        stand.teacher.before = lambda _: None
        ended.set()
        supervisor.join()


def submit_poisoned(stand: Stand, rows: str, **spec: Any) -> Job:
    """Preflight asks about the first 16 rows, and the poison is for a shard."""
    stand.teacher.hold(after=PREFLIGHT)
    job = stand.submit(rows, **spec)
    wait(lambda: stand.teacher.waiting)
    return job


@pytest.mark.slow
def test_a_shard_that_kills_every_worker_ends_its_job_and_no_other(stand: Stand, rows: str) -> None:
    harmless = rows.replace("book", "play")
    job = submit_poisoned(stand, rows)
    with poisoned(stand):
        stand.teacher.release()
        failed = stand.check(job, rows, "failed")
    assert failed.error is not None
    assert failed.error.code == "worker_lost"
    attempts = [item.attempts for item in stand.context.flow.items(job.id, "annotate")]
    assert max(attempts) == stand.settings.max_attempts
    assert failed.facts.set_aside == ()
    stand.check_annotated(stand.submit(harmless), harmless)


@pytest.mark.slow
def test_a_shard_that_kills_every_worker_is_set_aside_where_the_job_says_so(stand: Stand, rows: str) -> None:
    job = submit_poisoned(stand, rows, on_failed_shard="skip", max_failed_share=0.2)
    with poisoned(stand):
        stand.teacher.release()
        wait(lambda: stand.get(job).phase == "train", 100)
    (lost,) = stand.get(job).facts.set_aside
    assert lost.error.code == "worker_lost"
    fresh = ArtifactStore(stand.settings.artifact_root)
    dataset = stand.get(job).facts.dataset
    assert dataset is not None
    train = read_examples(fresh.folder(dataset) / "train.parquet")
    (poison,) = [index for index, row in enumerate(train) if row.input.startswith(POISON)]
    size = stand.settings.shard_size
    assert lost.index == poison // size
    assert list(lost.rows) == [row.id for row in train[lost.index * size : (lost.index + 1) * size]]
    stand.trainer()
    done = stand.ended(job)
    assert done.status == "succeeded", done.error
    results = stand.context.flow.results(job.id, "annotate")
    calm = stand.shards_without_faults(rows)
    assert [one.get("shard") for one in results] == [None if n == lost.index else one for n, one in enumerate(calm)]
    assert done.facts.annotated == len(train) - len(lost.rows)
    assert any("were set aside" in message for message in stand.messages(job))
    stand.check_leftovers(job)


def test_a_message_that_comes_three_times_at_once_is_worked_on_once(stand: Stand, rows: str) -> None:
    stand.teacher.hold(after=0)
    job = stand.submit(rows)
    wait(lambda: stand.get(job).phase == "preflight")
    (item,) = stand.context.flow.items(job.id, "preflight")
    threads = [threading.Thread(target=stand.context.send, args=(item.id, "control")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait(lambda: stand.teacher.waiting)
    stand.teacher.release()
    stand.check_annotated(job, rows)
    for phase in ("preflight", "annotate"):
        assert {(one.attempts, one.token) for one in stand.context.flow.items(job.id, phase)} == {(1, 1)}


def cancel(stand: Stand, job_id: str) -> bool:
    try:
        stand.context.flow.end(job_id, "cancelled", Event(message="Job cancelled"))
    except Conflict:
        return False
    return True


def test_a_job_that_is_cancelled_while_it_waits_asks_no_teacher(stand: Stand, rows: str) -> None:
    stand.broker.stop()
    job = stand.submit(rows)
    asked = stand.teacher.asked
    assert cancel(stand, job.id)
    stand.broker.start()
    stand.check(job, rows, "cancelled")
    assert stand.teacher.asked == asked


def test_a_job_that_is_cancelled_while_a_teacher_works_for_it_frees_its_threads(stand: Stand, rows: str) -> None:
    stand.teacher.hold(after=PREFLIGHT + 1)
    job = stand.submit(rows)
    wait(lambda: stand.teacher.waiting == 2)
    assert cancel(stand, job.id)
    other = stand.submit(rows)
    wait(lambda: stand.get(other).phase == "preflight", 10)  # both threads are free, and the teacher still says nothing
    stand.teacher.release()
    stand.check(job, rows, "cancelled")
    stand.check_annotated(other, rows)


@pytest.mark.slow
def test_a_cancel_that_races_the_finish_gives_one_of_two_whole_ends(stand: Stand, rows: str) -> None:
    stand.trainer()
    seen = set()
    for turn in range(3):
        job = stand.submit(rows)
        wait(lambda job=job: stand.get(job).phase in ("publish", "done"))
        time.sleep(0.02 * turn)
        cancelled = cancel(stand, job.id)
        done = stand.check(job, rows, "cancelled" if cancelled else "succeeded")
        assert done.status in ENDED
        assert (done.fine_tuned_model is None) == cancelled
        moved = {move.by for move in ArtifactStore(stand.settings.artifact_root).moves.history(done.alias)}
        assert (job.id in moved) == (not cancelled)
        seen.add(done.status)
        assert not cancel(stand, job.id)  # and there it stays
        assert stand.get(job) == done
    assert seen <= {"cancelled", "succeeded"}


@pytest.mark.slow
@pytest.mark.parametrize("signals", [("SIGTERM",), ("SIGTERM", "SIGTERM"), ("SIGKILL",)], ids="-".join)
def test_a_training_goes_on_from_its_checkpoint_however_its_worker_ended(
    stand: Stand, rows: str, signals: tuple[str, ...]
) -> None:
    stand.trainer()
    job = stand.submit(rows, hyperparameters=ENDLESS)
    wait(lambda: list(stand.settings.work.glob("*/checkpoints/checkpoint-*/trainer_state.json")))
    worker = stand.trainer()
    children = training_children(worker)
    for name in signals:
        worker.send_signal(signal.Signals[name])
        time.sleep(0.1)
    worker.wait(15)
    wait(lambda: all(map(is_gone, children)), 10)
    checkpoints = [int(path.parent.name.split("-")[1]) for path in _checkpoints(stand)]
    stand.trainer()
    wait(lambda: stand.context.flow.items(job.id, "train")[0].completed > max(checkpoints))
    assert cancel(stand, job.id)
    stand.check(job, rows, "cancelled")


def _checkpoints(stand: Stand) -> list[Path]:
    return list(stand.settings.work.glob("*/checkpoints/checkpoint-*/trainer_state.json"))
