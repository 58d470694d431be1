"""A dry run: what a job would find and cost, without a job; and what was expected beside what it took."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from stand.bench import rows
from stand.server import DISTIL, Server

from services.orchestrator import dry
from services.orchestrator.estimate import estimated, expect
from services.orchestrator.jobs import Arm, Event, Rows
from services.orchestrator.settings import Settings
from understudy.testing import FakeTeacher

ARMS = (Arm(name="finetune", candidate=True), Arm(name="logit_kd", candidate=True))
ROWS = Rows(train=100, validation=10, test=20, rejected=3)


pytestmark = pytest.mark.usefixtures("fork_server")


@pytest.fixture
def server(settings: Settings, bench: Any) -> Iterator[Server]:
    del bench  # both work on the same database
    one = Server(settings.model_copy(update={"sweep_seconds": 60.0}))
    yield one
    one.stop()


def try_out(server: Server, **body: Any) -> httpx.Response:
    given = {"model": "scratch:bert-1x16", "method": DISTIL, **body}
    return server.http.post("/v1/fine_tuning/jobs", params={"dry_run": "true"}, json=given)


def test_it_says_what_a_job_would_find_and_makes_none(server: Server, rows: Any) -> None:
    long = '{"input": "' + "word " * 700 + '", "output": "fine"}\n'
    file_id = server.upload(rows(80) + long + "not json\n").json()["id"]
    method = {"type": "distillation", "distillation": {"teacher": {"model": "teacher"}, "recipe": "logit_kd"}}
    found = try_out(server, training_file=file_id, method=method).json()
    assert found["object"] == "fine_tuning.job.dry_run"
    assert sum(found["rows"][name] for name in ("train", "validation", "test")) == 81
    assert (found["rejected_rows"]["count"], found["rejected_rows"]["data"][0]["line"]) == (1, 82)
    assert (found["architecture"], [arm["name"] for arm in found["arms"]]) == ("classifier", ["finetune", "logit_kd"])
    student, train = found["student"], found["rows"]["train"]
    assert (student["window"], student["rows"]) == (512, train)
    if student["longest"] > 512:  # the long row is in the training split, which its content's hash decides
        assert student["truncated_share"] == pytest.approx(1 / train, abs=1e-4)
    assert student["tokens"] >= 8 * train
    estimate = found["estimate"]
    assert (estimate["runs"], estimate["steps_per_run"], estimate["teacher_examples"]) == (2, 400, train)
    assert estimate["teacher_calls"] == -(-train // 32)
    assert (estimate["seconds"], estimate["disk_bytes"], found["teacher"]) == (None, None, None)
    assert "seconds of validate, preflight, annotate, train, evaluate, publish: no earlier" in estimate["unknown"][0]
    assert any("teacher tokens" in reason for reason in estimate["unknown"])
    assert server.http.get("/v1/fine_tuning/jobs").json()["data"] == []


def test_a_row_that_no_training_has_room_for_is_told_with_its_line(server: Server) -> None:
    outputs = [f"{i} and {i % 7}" for i in range(40)] + [" ".join(f"word{i}" for i in range(700))]

    def upload(verb: str) -> str:
        rows = (f'{{"input": "{verb} {i}", "output": "{output}"}}\n' for i, output in enumerate(outputs))
        return str(server.upload("".join(rows)).json()["id"])

    asked = {"teacher": {"model": "teacher"}, "recipe": "finetune", "test_file": upload("count")}
    found = try_out(
        server,
        model="scratch:t5-1x16",
        training_file=upload("say"),
        validation_file=upload("tell"),
        method={"type": "distillation", "distillation": asked},
    ).json()
    told = [(row["split"], row["line"], row["param"]) for row in found["rejected_rows"]["data"]]
    assert told == [("train", 41, "output"), ("validation", 41, "output")]
    assert found["rows"]["test"] == 41


def test_a_teacher_that_will_be_trained_here_is_counted_too(server: Server, rows: Any) -> None:
    teacher = {"model": "scratch:t5-1x32", "finetune": True}
    method = {"type": "distillation", "distillation": {"teacher": teacher, "recipe": "finetune"}}
    found = try_out(server, training_file=server.upload(rows(80)).json()["id"], method=method).json()
    assert found["teacher"]["model"] == "scratch:t5-1x32"
    assert found["teacher"]["tokens"] != found["student"]["tokens"]
    assert "teacher" in found["estimate"]["seconds_by_phase"]


@pytest.mark.parametrize(
    ("content", "body", "status", "param"),
    [
        ("nonsense\n", {}, 400, "training_file"),
        (None, {"model": "no/such-model"}, 404, "model"),
        (None, {"seed": -1}, 400, "seed"),
        (None, {"training_file": "file-none"}, 404, "training_file"),
        (
            None,
            {"method": {"type": "distillation", "distillation": {**DISTIL["distillation"], "recipe": "step_by_step"}}},
            400,
            "method.distillation.recipe",
        ),  # type: ignore[dict-item]
    ],
)
def test_what_would_fail_the_job_is_the_answer(
    server: Server, rows: Any, content: str | None, body: dict[str, Any], status: int, param: str
) -> None:
    file_id = server.upload(content or rows(60)).json()["id"]
    answer = try_out(server, **{"training_file": file_id, **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_it_is_bounded_in_size_and_in_number(server: Server, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id = server.upload(rows(60)).json()["id"]
    monkeypatch.setattr(dry, "MAX_SECONDS", 0.0)
    answer = try_out(server, training_file=file_id)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    monkeypatch.setattr(dry, "MAX_BYTES", 10)
    assert try_out(server, training_file=file_id).status_code == 413


def test_the_api_never_imports_torch(settings: Settings) -> None:
    script = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from starlette.testclient import TestClient
        from services.orchestrator.app import create_app
        from services.orchestrator.settings import Settings

        if __name__ == "__main__":
            rows = "".join(f'{{{{"input": "text {{i}} is {{i % 2}}", "output": "{{i % 2}}"}}}}\\n' for i in range(60))
            settings = Settings(home=Path({str(settings.home)!r}), broker_url="redis+socket:///nowhere")
            with TestClient(create_app(settings, lambda *_: None)) as api:
                given = {{"file": ("rows.jsonl", rows.encode())}}
                file = api.post("/v1/files", files=given, data={{"purpose": "fine-tune"}}).json()
                body = {{"model": "scratch:bert-1x16", "training_file": file["id"]}}
                answer = api.post("/v1/fine_tuning/jobs?dry_run=true", json=body)
                assert answer.status_code == 200, answer.text
                assert answer.json()["student"]["tokens"] > 0
            assert "torch" not in sys.modules
        """
    )
    path = settings.home.parent / "script.py"
    path.write_text(script)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_paces_of_earlier_jobs_of_the_same_kind_give_the_time(
    make_bench: Any, settings: Settings, database_url: str
) -> None:
    now = [1000.0]
    settings = settings.model_copy(update={"database_url": database_url})
    one = make_bench(settings, FakeTeacher(), lambda: now[0])

    def done(phase: str, queue: str, units: int, seconds: float, **changes: Any) -> None:
        job = one.submit_items(1, phase=phase, queue=queue, **changes)
        item = one.context.leases.claim(one.item_ids(job, phase)[0], "a")
        now[0] += seconds
        one.context.leases.complete(item, {"artifact": "model-none"}, units)
        one.context.flow.end(job.id, "cancelled", Event(message="over"))

    job = one.job(spec={"hyperparameters": {"max_steps": 50}, "seeds": [0, 1]})
    for phase, queue, units, seconds in (
        ("validate", "control", 133, 2.0),
        ("preflight", "control", 1, 3.0),
        ("annotate", "annotate", 50, 5.0),
        ("evaluate", "train", 80, 8.0),
        ("publish", "control", 1, 1.0),
    ):
        done(phase, queue, units, seconds)
    done("train", "train", 100, 900.0, model="scratch:bert-2x32")  # another student says nothing
    assert expect(one.context, job, ROWS, ARMS).seconds_by_phase["train"] is None
    done("train", "train", 100, 10.0)
    estimate = expect(one.context, job, ROWS, ARMS)
    assert estimate.seconds_by_phase == {
        "validate": 2.0,
        "preflight": 3.0,
        "annotate": 10.0,
        "train": 20.0,
        "evaluate": 8.0,
        "publish": 1.0,
    }
    assert estimate.seconds == 44.0
    timed = one.job(spec={"hyperparameters": {"seconds": 30}, "seeds": [0, 1], "sizes": [20]})
    found = expect(one.context, timed, ROWS, ARMS)
    assert (found.seconds_by_phase["train"], found.runs, found.steps_per_run) == (8 * 30.0, 8, 0)
    assert "steps: each training takes 30 s, however many they are" in found.unknown
    running = job.with_facts(estimate=estimate).model_copy(update={"status": "running", "phase": "annotate"})
    assert estimated(running, 4.0, 100.0) == 133
    assert estimated(running, None, 100.0) == 139
    assert estimated(running.model_copy(update={"status": "paused"}), 4.0, 100.0) is None
    one.context.close()


def test_what_is_no_json_for_the_database_in_one_job_spoils_no_other_jobs_estimate(
    settings: Settings, make_bench: Any, database_url: str, tmp_path: Path
) -> None:
    one = make_bench(settings.model_copy(update={"database_url": database_url}), FakeTeacher())
    context = one.context
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"0" * 1000)
    artifact = context.artifacts.publish("model", tmp_path / "model")

    def trained(**changes: Any) -> None:
        job = one.submit_items(1, phase="train", queue="train", **changes)
        item = context.leases.claim(one.item_ids(job, "train")[0], "a")
        context.leases.complete(item, {"artifact": artifact.id}, 1)
        context.flow.end(job.id, "cancelled", Event(message="over"))

    trained()
    # An earlier version took such jobs: each of the two databases refuses, or cannot look into, one of them.
    if context.database.dialect == "sqlite":
        trained(spec={"hyperparameters": {"learning_rate_multiplier": float("inf")}})
    else:
        trained(metadata={"note": "a\0b"})
    for _ in range(7):
        trained(model="scratch:bert-2x32")  # another student, and more of it than models are looked at
    job = one.job(training_file=one.upload(rows()))
    uploaded = context.files.get(job.training_file).bytes
    assert expect(context, job, ROWS, ARMS).disk_bytes == 3 * artifact.bytes + uploaded
    another = job.model_copy(update={"model": "scratch:bert-4x16"})
    assert expect(context, another, ROWS, ARMS).disk_bytes is None
    context.close()


def test_every_job_keeps_its_estimate_and_shows_what_it_spent_beside_it(server: Server, bench: Any) -> None:
    job = bench.work(bench.submit(), until="annotate")
    shown = server.http.get(f"/v1/fine_tuning/jobs/{job.id}").json()
    assert shown["estimate"]["teacher_examples"] == job.facts.rows.train
    assert set(shown["spent"]["seconds_by_phase"]) == {"validate", "preflight", "annotate"}
    assert shown["spent"]["seconds"] >= 0
    assert shown["estimated_finish"] is None


def test_a_service_without_torch_says_that_it_makes_no_dry_runs(
    server: Server, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry, "find_spec", lambda name: None if name == "torch" else name)
    file_id = server.upload(rows(20)).json()["id"]
    refused = try_out(server, training_file=file_id)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "dry_run")
    assert "submit the job" in refused.json()["error"]["message"]
