"""Real worker processes on a real Redis: killed, cancelled, paused, shut down, and cut off from the broker."""

from __future__ import annotations

import base64
import json
import pickle
import time
from typing import Any

import psutil
import pytest
import redis
from stand.processes import Stand, is_gone, training_children, wait

from services.orchestrator.broker import TASK
from services.orchestrator.jobs import Event

pytestmark = pytest.mark.e2e


FIRST = 400  # the first checkpoint of 4,000 steps


class _Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def test_a_job_that_is_submitted_while_the_broker_is_away_runs_once_it_is_back(stand: Stand, rows: str) -> None:
    first = stand.submit(rows)
    wait(lambda: stand.get(first).phase != "validate")
    stand.broker.stop()
    job = stand.submit(rows)
    time.sleep(0.5)
    assert stand.get(job).phase == "validate"
    stand.broker.start()
    wait(lambda: stand.get(job).phase == "train")
    wait(lambda: stand.get(first).phase == "train")


def test_items_that_end_while_the_broker_is_away_leave_their_slots_to_others(stand: Stand, rows: str) -> None:
    stand.teacher.hold(after=4)  # preflight's 16 examples
    job = stand.submit(rows)
    wait(lambda: stand.teacher.waiting == 2)  # both threads of the worker are taken
    stand.broker.stop()
    stand.teacher.release()
    wait(lambda: [item.state for item in stand.context.flow.items(job.id, "annotate")].count("done") == 2)
    time.sleep(0.5)  # neither message can be acknowledged
    stand.broker.start()
    wait(lambda: stand.get(job).phase == "train")


def test_a_worker_takes_no_message_that_it_has_no_thread_for(stand: Stand, rows: str) -> None:
    stand.teacher.hold(after=4)  # preflight's 16 examples
    job = stand.submit(rows)
    wait(lambda: stand.teacher.waiting == 2)
    time.sleep(0.3)
    queue = redis.Redis(unix_socket_path=str(stand.broker.socket))
    assert queue.llen(stand.queue("annotate")) == len(stand.context.flow.items(job.id, "annotate")) - 2
    queue.close()


def test_a_pickled_message_is_refused_and_the_worker_lives(stand: Stand, rows: str) -> None:
    opened = stand.settings.home / "opened"
    message = {
        "body": base64.b64encode(pickle.dumps(_Trap(str(opened)))).decode(),
        "content-encoding": "binary",
        "content-type": "application/x-python-serialize",
        "headers": {"task": TASK, "id": "1", "lang": "py"},
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": "control"},
            "delivery_tag": "1",
            "body_encoding": "base64",
        },
    }
    worker = stand.annotator()
    queue = redis.Redis(unix_socket_path=str(stand.broker.socket))
    queue.lpush(stand.queue("control"), json.dumps(message))
    wait(lambda: not queue.llen(stand.queue("control")))
    job = stand.submit(rows)
    wait(lambda: stand.get(job).phase == "train")
    assert worker.poll() is None
    assert not opened.exists()
    queue.close()


def test_a_message_that_comes_twice_is_worked_on_once(stand: Stand, rows: str) -> None:
    stand.teacher.hold(after=0)
    job = stand.submit(rows)
    wait(lambda: stand.teacher.waiting)  # preflight runs
    (item,) = stand.context.flow.items(job.id, "preflight")
    for _ in range(5):
        stand.context.send(item.id, "control")
    stand.teacher.release()
    wait(lambda: stand.get(job).phase == "train")
    (item,) = stand.context.flow.items(job.id, "preflight")
    assert (item.attempts, item.token) == (1, 1)


@pytest.mark.slow
def test_cancelling_ends_the_trainings_that_run_side_by_side(stand: Stand, rows: str) -> None:
    worker = stand.trainer()
    job = stand.submit(rows, recipe="rationale_gate", hyperparameters={"n_epochs": 1000})
    children = wait(lambda: len(found := training_children(worker)) == 2 and found)
    wait(lambda: any("step" in message for message in stand.messages(job)))
    stand.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))
    wait(lambda: all(map(is_gone, children)), 10)
    wait(lambda: not list(stand.settings.work.glob("*/checkpoints")))
    assert not any("libtorch" in one.path for one in psutil.Process(worker.pid).memory_maps())
    assert worker.poll() is None


@pytest.mark.slow
def test_a_worker_told_to_end_gives_its_training_back_and_the_next_goes_on_with_it(stand: Stand, rows: str) -> None:
    worker = stand.trainer()
    job = stand.submit(rows, recipe="finetune", hyperparameters={"n_epochs": 1000})
    wait(lambda: list(stand.settings.work.glob("*/checkpoints/checkpoint-*/trainer_state.json")))
    children = training_children(worker)
    wait(lambda: stand.context.flow.items(job.id, "train")[0].completed > FIRST)
    worker.terminate()
    worker.wait(60)
    assert all(map(is_gone, children))
    (item,) = stand.context.flow.items(job.id, "train")
    assert (item.state, item.attempts) == ("pending", 0)
    whole = stand.settings.work.glob("*/checkpoints/checkpoint-*/trainer_state.json")
    kept = max(int(path.parent.name.rpartition("-")[2]) for path in whole)
    assert kept >= item.completed > FIRST  # the step that was reached, and not only the one of the last validation
    stand.trainer()
    wait(lambda: stand.context.flow.items(job.id, "train")[0].state == "running")
    wait(lambda: stand.context.flow.items(job.id, "train")[0].completed > kept)


def test_a_worker_killed_in_the_middle_of_a_shard_costs_no_row_and_doubles_none(stand: Stand, rows: str) -> None:
    stand.teacher.hold(after=4 + 2 + 1)  # of 4 examples each: preflight's 16, a shard of 8, and a half
    job = stand.submit(rows)
    wait(lambda: stand.teacher.waiting)
    stand.kill(stand.annotator())
    held = [item for item in stand.context.flow.items(job.id, "annotate") if item.state == "running"]
    assert held
    stand.teacher.release()
    stand.annotator()
    stand.check_annotated(job, rows)
    attempts = {item.index: item.attempts for item in stand.context.flow.items(job.id, "annotate")}
    assert all(attempts[item.index] == 2 for item in held)
    assert any("has not been heard of" in message for message in stand.messages(job))


@pytest.mark.slow
def test_a_job_that_met_a_killed_worker_publishes_its_model(stand: Stand, rows: str) -> None:
    stand.teacher.hold(after=4)
    job = stand.submit(rows)
    wait(lambda: stand.teacher.waiting)
    stand.kill(stand.annotator())
    stand.teacher.release()
    stand.annotator()
    done = stand.check(job, rows)
    assert stand.context.artifacts.resolve("production") == done.fine_tuned_model
