"""Plain fine-tuning as OpenAI has it: the stock client's ways to ask for it, and a whole job without a teacher."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.fine_tuning import FineTuningJob
from rich.console import Console
from stand.server import Server

from services.orchestrator.jobs import Job
from services.orchestrator.pipeline import first_items
from services.orchestrator.settings import Settings
from understudy.display import report_view
from understudy.evaluation.report import Report
from understudy.schemas import PredictionInput, SupervisedSpec
from understudy.serving.hf import HFEngine


class NoTeacher(httpx.BaseTransport):
    """No job without a teacher may ask for one."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"a teacher was asked: {request.url}")


@pytest.fixture
def server(settings: Settings, bench: Any) -> Iterator[Server]:
    one = Server(settings, lambda item_id, queue: bench.sent.append((item_id, queue)))
    yield one
    one.stop()


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


@pytest.fixture
def file_id(client: openai.OpenAI, rows: Any) -> str:
    return client.files.create(file=("rows.jsonl", rows(80).encode()), purpose="fine-tune").id


def submitted(bench: Any, rows: Any, **spec: Any) -> Job:
    job: Job = bench.job(training_file=bench.upload(rows(80))).model_copy(update={"spec": SupervisedSpec(**spec)})
    bench.context.flow.submit(job, first_items(job, bench.context.settings))
    return job


def strict(job: FineTuningJob) -> FineTuningJob:
    """The package builds its objects without a check; here every field must be of its type."""
    return FineTuningJob.model_validate(json.loads(job.model_dump_json()), strict=True)


def test_a_job_without_a_method_is_plain_fine_tuning(client: openai.OpenAI, file_id: str) -> None:
    job = strict(client.fine_tuning.jobs.create(model="scratch:bert-1x16", training_file=file_id))
    assert job.method is not None
    assert job.method.type == "supervised"
    assert job.hyperparameters.n_epochs == "auto"
    phases = [one["phase"] for one in job.model_extra["phases"]]  # type: ignore[index]
    assert phases == ["validate", "train", "evaluate", "publish"]


def test_the_hyperparameters_of_the_method_and_the_older_ones_are_read(client: openai.OpenAI, file_id: str) -> None:
    create = client.fine_tuning.jobs.create
    new = create(
        model="scratch:bert-1x16",
        training_file=file_id,
        seed=3,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}}},
    )
    old = create(
        model="scratch:bert-1x16", training_file=file_id, seed=3, hyperparameters={"n_epochs": 2, "batch_size": 8}
    )
    for job in (strict(new), strict(old)):
        assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size, job.seed) == (2, 8, 3)
        assert job.method is not None
        assert job.method.supervised is not None
        assert job.method.supervised.hyperparameters is not None
        assert job.method.supervised.hyperparameters.n_epochs == 2


@pytest.mark.parametrize(
    ("method", "param"),
    [
        ({"type": "dpo"}, "method.type"),
        ({"type": "distillation"}, "method.distillation"),
        ({"type": "supervised", "distillation": {"teacher": {"model": "x"}}}, "method.distillation"),
        ({"type": "supervised", "supervised": {"teacher": {"model": "x"}}}, "method.supervised.teacher"),
        ({"type": "supervised", "supervised": {"seeds": [1, 1]}}, "method.supervised.seeds"),
        ({"type": "supervised", "supervised": {"template": "no input"}}, "method.supervised.template"),
        ({"type": "supervised", "supervised": {"test_file": "file-x"}}, "method.supervised.test_file"),
        ({"type": "supervised", "supervised": {"budget": {"teacher_tokens": 5}}}, "method.supervised"),
    ],
)
def test_what_does_not_belong_to_the_method_is_refused_by_its_field(
    server: Server, file_id: str, method: dict[str, Any], param: str
) -> None:
    answer = server.create(training_file=file_id, method=method)
    assert (answer.json()["error"]["param"], answer.status_code) == (param, 404 if "test_file" in param else 400)


def test_a_student_cut_from_a_teacher_needs_a_model_where_there_is_no_teacher(server: Server, file_id: str) -> None:
    refused = server.create(training_file=file_id, model="cut:2", method={"type": "supervised"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
    assert "cut:2@<model>" in refused.json()["error"]["message"]
    named = server.create(training_file=file_id, model="cut:2@some-model", method={"type": "supervised"})
    assert named.status_code == 200


def test_a_test_file_that_cannot_be_used_is_named_as_its_user_named_it(bench: Any, rows: Any) -> None:
    job = bench.work(submitted(bench, rows, test_file=bench.upload("nonsense\n")))
    assert (job.status, job.error.param) == ("failed", "method.supervised.test_file")


@pytest.mark.slow
@pytest.mark.usefixtures("fork_server")
def test_a_whole_job_reports_its_arm_beside_the_baseline_and_publishes_a_model_that_answers(
    server: Server, client: openai.OpenAI, file_id: str, bench: Any, make_bench: Any, settings: Settings
) -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": {"max_steps": 60}, "max_train_rows": 30}}
    job = client.fine_tuning.jobs.create(
        model="scratch:bert-1x32",
        training_file=file_id,
        method=method,  # type: ignore[arg-type]
        suffix="plain",
    )
    worker = make_bench(settings, NoTeacher())
    worker.sent = bench.sent  # where the server's messages go
    worker.work(worker.context.jobs.get(job.id), seconds=100)
    job = strict(client.fine_tuning.jobs.retrieve(job.id))
    assert (job.status, job.error) == ("succeeded", None)
    report = Report.model_validate_json(client.files.content(job.result_files[0]).read())
    assert [arm.recipe for arm in report.arms] == ["finetune"]
    assert (report.teacher, report.rationale, report.comparisons) == (None, None, ())
    assert report.rows.train == 30
    assert 0.2 < report.baseline.accuracy < 0.7
    page = server.http.get(f"/v1/fine_tuning/jobs/{job.id}/report.html").text
    assert "Teacher accuracy" not in page
    assert "None" not in page
    console = Console(record=True, width=120)
    console.print(report_view(report))
    assert "baseline: " in (shown := console.export_text())
    assert "teacher" not in shown
    folder = worker.context.artifacts.folder(job.fine_tuned_model)
    assert json.loads((folder / "provenance.json").read_text())["teacher"] is None
    assert "without a teacher" in (folder / "README.md").read_text()
    (answer,) = HFEngine.load(folder).predict(
        [PredictionInput(input="The film number 3 was great")], explain=True, top_k=3
    )
    assert answer.label in ("awful", "fine", "great")
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert client.models.retrieve("production-plain").id == "production-plain"
    assert checkpoint.fine_tuned_model_checkpoint.startswith("model-")
    worker.context.close()
