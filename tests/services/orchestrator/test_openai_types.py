"""Every answer, checked strictly against the types of the `openai` package, which builds its objects unchecked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeVar

import openai
import pytest
from openai.types import FileDeleted, FileObject, Model, ModelDeleted
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from pydantic import BaseModel, ValidationError
from stand.server import DISTIL, Server

from services.orchestrator.jobs import Event
from services.orchestrator.settings import Settings

T = TypeVar("T", bound=BaseModel)

TRAINED = {
    "arm": {"name": "finetune", "candidate": True},
    "seed": 0,
    "artifact": "model-" + "0" * 24,
    "result": {
        "model": "/nowhere",
        "validation_accuracy": 0.5,
        "validation_loss": 1.5,
        "validation_rows": 8,
        "best_step": 3,
        "steps": 4,
        "batch_size": 2,
        "learning_rate": 0.1,
        "seconds": 1.0,
        "parameters": 10,
        "device": "cpu",
        "instances": 5,
    },
}


@pytest.fixture
def server(settings: Settings, bench: Any) -> Iterator[Server]:
    del bench  # both work on the same database
    one = Server(settings.model_copy(update={"sweep_seconds": 60.0}))
    yield one
    one.stop()


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


def strict(kind: type[T], answer: Any) -> T:
    return kind.model_validate(json.loads(json.dumps(answer)), strict=True)


def test_files(server: Server, client: openai.OpenAI) -> None:
    made = [strict(FileObject, server.upload(f'{{"input": "{n}", "output": "y"}}\n').json()) for n in range(3)]
    page = server.http.get("/v1/files", params={"limit": 2}).json()
    assert set(page) == {"object", "data", "has_more", "first_id", "last_id"}
    assert (page["first_id"], page["last_id"]) == (made[2].id, made[1].id)
    assert [strict(FileObject, one) for one in page["data"]] == [made[2], made[1]]
    assert [one.id for one in client.files.list(limit=1, order="asc")] == [one.id for one in made]
    assert client.files.content(made[0].id).read() == b'{"input": "0", "output": "y"}\n'
    gone = strict(FileDeleted, server.http.delete(f"/v1/files/{made[0].id}").json())
    assert (gone.id, gone.object, gone.deleted) == (made[0].id, "file", True)
    with pytest.raises(openai.NotFoundError):
        client.files.content(made[0].id)


@pytest.mark.parametrize("end", [None, "cancel", "fail"])
def test_a_job_of_openais_own_method_in_every_state(server: Server, bench: Any, rows: Any, end: str | None) -> None:
    file_id = server.upload(rows(80)).json()["id"]
    made = server.create(training_file=file_id, method={"type": "supervised"}, metadata={"k": "v"}, suffix="s").json()
    if end == "cancel":
        server.http.post(f"/v1/fine_tuning/jobs/{made['id']}/cancel")
    if end == "fail":
        broken = server.upload("nonsense\n").json()["id"]
        made = server.create(training_file=broken, method={"type": "supervised"}).json()
        bench.sent = [(bench.context.flow.items(made["id"], "validate")[0].id, "control")]
        bench.work(bench.context.jobs.get(made["id"]))
    job = strict(FineTuningJob, server.http.get(f"/v1/fine_tuning/jobs/{made['id']}").json())
    assert job.status == {None: "validating_files", "cancel": "cancelled", "fail": "failed"}[end]
    assert (job.error is not None, job.finished_at is not None) == (end == "fail", end is not None)


def test_of_a_distillation_job_only_the_methods_type_is_foreign(server: Server, rows: Any) -> None:
    job = server.create(training_file=server.upload(rows(80)).json()["id"], method=DISTIL).json()
    with pytest.raises(ValidationError) as caught:
        strict(FineTuningJob, job)
    assert [error["loc"] for error in caught.value.errors()] == [("method", "type")]


def test_lists_of_jobs_and_events_and_checkpoints(server: Server, client: openai.OpenAI, bench: Any) -> None:
    job = bench.submit_items(2, phase="train", queue="train", metadata={"team": "red"})
    bench.submit(training_file="file-x", metadata={"team": "blue"})
    bench.context.jobs.add_event(job.id, Event(message="loss", type="metrics", data={"step": 1}))
    for item_id in bench.item_ids(job, "train"):
        bench.context.leases.complete(bench.context.leases.claim(item_id, "a"), TRAINED, 4)
    jobs = client.fine_tuning.jobs
    assert [one.id for one in jobs.list(metadata={"team": "red"}, limit=1)] == [job.id]
    assert len(list(jobs.list(limit=1))) == 2
    path = f"/v1/fine_tuning/jobs/{job.id}"
    events = server.http.get(f"{path}/events").json()
    assert set(events) == set(server.http.get("/v1/fine_tuning/jobs").json()) == {"object", "data", "has_more"}
    assert [strict(FineTuningJobEvent, one).type for one in events["data"]] == ["metrics", "message"]
    checkpoints = server.http.get(f"{path}/checkpoints").json()
    assert set(checkpoints) == {"object", "data", "has_more", "first_id", "last_id"}
    found = [strict(FineTuningJobCheckpoint, one) for one in checkpoints["data"]]
    assert (found[0].id, found[-1].id) == (checkpoints["first_id"], checkpoints["last_id"])
    assert found[0].metrics.full_valid_loss == 1.5


def test_models(server: Server, client: openai.OpenAI, bench: Any, tmp_path: Any) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    model = bench.context.artifacts.publish("model", tmp_path / "model", {"role": "published"}).id
    strict(Model, server.http.get(f"/v1/models/{model}").json())
    assert [one.id for one in client.models.list()] == [model]
    assert strict(ModelDeleted, server.http.delete(f"/v1/models/{model}").json()).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.delete(model)
