"""The stock `openai` package against the real service on a real port: a whole job, from upload to published student."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from stand.listening import Listening

from services.orchestrator.app import create_app
from services.orchestrator.settings import Settings
from understudy.client import OrchestratorClient
from understudy.evaluation.report import Report
from understudy.testing import FakeTeacher

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fork_server")]

METHOD = {
    "type": "distillation",
    "distillation": {
        "teacher": {"model": "teacher"},
        "recipe": "rationale_gate",
        "seeds": [0, 1],
        "hyperparameters": {"max_steps": 3},
        "max_train_rows": 30,
        "alias": "sentiment",
    },
}


class Served:
    """The API on a port, with a bench that works on what it sends."""

    def __init__(self, settings: Settings, make_bench: Any) -> None:
        self.bench = make_bench(settings, FakeTeacher())
        app = create_app(settings, lambda item_id, queue: self.bench.sent.append((item_id, queue)))
        self.listening = Listening(app)
        self.url = self.listening.url
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def close(self) -> None:
        self.client.close()
        self.listening.stop()
        self.bench.context.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, make_settings: Any, make_bench: Any) -> Iterator[Served]:
    one = Served(make_settings(tmp_path_factory.mktemp("served")), make_bench)
    yield one
    one.close()


@pytest.fixture(scope="module")
def finished(served: Served, tmp_path_factory: pytest.TempPathFactory, rows: Any) -> Any:
    """A job that the stock client has created and that has gone through every phase with real trainings."""
    path = tmp_path_factory.mktemp("data") / "reviews.jsonl"
    path.write_text(rows(80) + "not json\n")
    file = served.client.files.create(file=path, purpose="fine-tune")
    job = served.client.fine_tuning.jobs.create(
        model="scratch:bert-1x16",
        training_file=file.id,
        method=METHOD,  # type: ignore[arg-type]
        suffix="v1",
        metadata={"made_by": "a test"},
    )
    assert job.status == "validating_files"
    served.bench.work(served.bench.context.jobs.get(job.id), seconds=100)
    return served.client.fine_tuning.jobs.retrieve(job.id)


def test_a_finished_job_is_an_openai_job_in_every_field(served: Served, finished: Any) -> None:
    job = finished
    assert (job.status, job.error, job.object) == ("succeeded", None, "fine_tuning.job")
    assert job.finished_at >= job.created_at
    assert job.fine_tuned_model.startswith("model-")
    assert (job.seed, job.metadata, job.validation_file) == (0, {"made_by": "a test"}, None)
    assert job.hyperparameters.n_epochs == "auto"
    assert served.client.files.retrieve(job.training_file).filename == "reviews.jsonl"
    # The package builds its objects without checking them; checked against its types, only our method is foreign.
    with pytest.raises(ValueError, match=r"1 validation error.*\nmethod\.type"):
        type(job).model_validate(json.loads(job.model_dump_json()))


def test_our_own_fields_ride_beside_openais(finished: Any) -> None:
    ours = finished.model_extra
    assert (ours["phase"], ours["progress"]["percent"], ours["alias"]) == ("done", 100.0, "sentiment-v1")
    assert all(phase["state"] == "done" for phase in ours["phases"])
    train = next(phase for phase in ours["phases"] if phase["phase"] == "train")
    assert (train["completed"], train["total"], train["unit"]) == (18, 18, "steps")  # 3 arms, 2 seeds, 3 steps
    assert [arm["name"] for arm in ours["arms"]] == ["finetune", "rationale_gate", "rationale_gate+random_rationale"]
    assert ours["rejected_rows"]["count"] == 1


def test_the_client_pages_through_all_events(served: Served, finished: Any) -> None:
    pages = served.client.fine_tuning.jobs.list_events(finished.id, limit=5)
    events = list(pages)
    assert len(events) > 10
    assert len({event.id for event in events}) == len(events)
    assert (events[0].message, events[-1].message) == ("The job has succeeded", "Job created")
    assert {event.level for event in events} == {"info", "warn"}
    metrics = [event for event in events if event.type == "metrics"]
    assert {"step", "train_loss", "arm", "seed"} <= set(metrics[0].data)


def test_every_arm_is_a_checkpoint_whose_model_is_there(served: Served, finished: Any) -> None:
    checkpoints = list(served.client.fine_tuning.jobs.checkpoints.list(finished.id, limit=2))
    assert len(checkpoints) == 6
    assert {(one.model_extra["arm"]["name"], one.model_extra["seed"]) for one in checkpoints} == {
        (name, seed) for name in ("finetune", "rationale_gate", "rationale_gate+random_rationale") for seed in (0, 1)
    }
    for one in checkpoints:
        assert one.id.startswith("ftckpt_")
        assert 0 <= one.metrics.full_valid_mean_token_accuracy <= 1
        assert served.client.models.retrieve(one.fine_tuned_model_checkpoint).id == one.fine_tuned_model_checkpoint


def test_the_result_file_is_the_report(served: Served, finished: Any) -> None:
    (result,) = finished.result_files
    assert served.client.files.retrieve(result).purpose == "fine-tune-results"
    report = Report.model_validate_json(served.client.files.content(result).read())
    with OrchestratorClient(served.url) as client:
        assert report == Report.model_validate(client.report(finished.id))
        page = client.report_html(finished.id)
    assert report.rows.train == 30
    assert report.rows.rejected == 1
    assert report.teacher.accuracy == 1.0
    assert report.teacher.latency_ms > 0
    assert "<html" in page


def test_the_report_page_may_run_and_fetch_nothing(served: Served, finished: Any) -> None:
    answer = httpx.get(f"{served.url}/v1/fine_tuning/jobs/{finished.id}/report.html")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_the_published_model_is_whole_and_behind_its_alias(served: Served, finished: Any) -> None:
    ids = {model.id: model.model_extra["artifact"] for model in served.client.models.list()}
    assert ids == {"sentiment-v1": finished.fine_tuned_model, finished.fine_tuned_model: finished.fine_tuned_model}
    assert served.client.models.retrieve("sentiment-v1").owned_by == "understudy"
    folder: Path = served.bench.context.artifacts.folder(finished.fine_tuned_model)
    assert {"config.json", "model.safetensors", "task.json", "card.json", "report.json", "report.html"} <= {
        path.name for path in folder.iterdir()
    }
    report = Report.model_validate_json((folder / "report.json").read_bytes())
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["recipe"] == report.published.recipe
    assert provenance["dataset"] == finished.model_extra["dataset"]
    assert provenance["teacher"]["fingerprint"] == "0123456789abcdef"
    card = (folder / "README.md").read_text()
    assert "DOES NOT BEAT" in card or "BEATS" in card or "INCONCLUSIVE" in card


def test_publishing_twice_publishes_one_model_and_moves_no_alias(
    served: Served, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.orchestrator.phases import publish
    from services.orchestrator.pipeline import STAGES

    context = served.bench.context
    job = context.jobs.get(finished.id)
    (item,) = context.flow.items(job.id, "publish")

    class Free:
        def check(self) -> None: ...

    monkeypatch.setattr(context.artifacts, "set_alias", lambda *_, **__: pytest.fail("the job's end moves it"))
    again = STAGES["publish"].run(context, job, item, Free())  # type: ignore[arg-type]
    assert isinstance(again, publish.Published)
    assert (again.model, again.result_file) == (job.fine_tuned_model, *job.result_files)


def test_errors_are_the_clients_own_classes(served: Served) -> None:
    jobs = served.client.fine_tuning.jobs
    with pytest.raises(openai.NotFoundError, match="there is no job 'ftjob-none'"):
        jobs.retrieve("ftjob-none")
    with pytest.raises(openai.NotFoundError) as missing:
        jobs.create(model="scratch:bert-1x16", training_file="file-none")
    assert missing.value.param == "training_file"
    with pytest.raises(openai.BadRequestError) as caught:
        served.client.files.create(file=("a.jsonl", b"x"), purpose="batch")
    assert (caught.value.param, caught.value.code) == ("purpose", "unknown_name")


def test_the_client_lists_cancels_pauses_and_deletes(served: Served, rows: Any) -> None:
    client = served.client
    file = client.files.create(file=("rows.csv", b"input,output\n" + b"a text,a label\n" * 3), purpose="fine-tune")
    assert file.id in {one.id for one in client.files.list(purpose="fine-tune", limit=1)}
    assert client.files.content(file.id).text.startswith("input,output")
    job = client.fine_tuning.jobs.create(
        model="scratch:t5-1x16",
        training_file=client.files.create(file=rows(60).encode(), purpose="fine-tune").id,
        method={"type": "distillation", "distillation": {"teacher": {"model": "teacher"}}},  # type: ignore[typeddict-item]
        metadata={"run": "paused"},
    )
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert [one.id for one in client.fine_tuning.jobs.list(limit=1, metadata={"run": "paused"})] == [job.id]
    with pytest.raises(openai.ConflictError):
        client.fine_tuning.jobs.cancel(job.id)
    assert client.files.delete(file.id).deleted
