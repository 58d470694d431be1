"""The whole job over HTTP, on real text, with the real services as processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai
import pytest

from understudy.artifacts import ArtifactStore
from understudy.client import OrchestratorClient, StudentClient, TeacherClient
from understudy.data.parquet import read_annotated, read_examples
from understudy.errors import InvalidRequest, NotFound, StageFailed, UnknownName
from understudy.jobs import submit, watch
from understudy.quickstart import SENTENCES
from understudy.schemas import AttributionExample, AttributionRequest, PredictionInput, PredictionRequest
from understudy.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def _first_rows(source: Path, count: int, into: Path) -> Path:
    lines = source.read_text(encoding="utf-8").splitlines()[:count]
    into.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return into


def _job(student: str, teacher: str, recipe: str | list[str], alias: str, **more: Any) -> dict[str, Any]:
    few = {"max_steps": 30}
    distillation = {
        "teacher": {"model": teacher, "finetune": True, "hyperparameters": few},
        "recipe": recipe,
        "hyperparameters": few,
        "alias": alias,
    }
    return {"model": student, "method": {"type": "distillation", "distillation": {**distillation, **more}}}


def _seen(job: Mapping[str, Any], phases: list[str]) -> None:
    if not phases or phases[-1] != job["phase"]:
        phases.append(job["phase"])


def test_three_hundred_tweets_become_a_served_student_and_a_report(
    stack: Stack, orchestrator: OrchestratorClient, real_data: Path, tmp_path: Path
) -> None:
    tweets = _first_rows(real_data / "tweet_sentiment" / "train.jsonl", 300, tmp_path / "tweets.jsonl")
    with tweets.open("a", encoding="utf-8") as file:
        file.write('{"input": "a row without an answer"}\n')
    job = _job("scratch:bert-1x32", "scratch:bert-2x32", "auto", "tweets", seeds=[0, 1])
    job_id = submit(orchestrator, {"training_file": tweets}, job)

    phases: list[str] = []
    report = watch(orchestrator, job_id, lambda job: _seen(job, phases), stack.check, seconds=0.1)

    ended = orchestrator.job(job_id)
    assert phases == sorted(phases, key=[*(phase["phase"] for phase in ended["phases"]), "done"].index)
    assert {phase["state"] for phase in ended["phases"]} == {"done"}
    assert ended["rejected_rows"]["count"] == report.rows.rejected == 1
    assert ended["rejected_rows"]["data"][0]["line"] == 301
    assert report.rows.train + report.rows.validation + report.rows.test == 300

    tried = {one["recipe"] for one in ended["searched"]}
    kept = {one["recipe"] for one in ended["searched"] if one["kept"]}
    assert {"finetune", "logit_kd", "rationale_gate", "saliency"} <= tried
    assert (len(kept), "finetune" in kept, "search" in phases) == (4, True, True)
    arms = {arm.recipe: arm for arm in report.arms}
    assert {name for name, arm in arms.items() if arm.candidate} == kept
    assert all(len(arm.seeds) == 2 and 0 <= arm.low <= arm.accuracy <= arm.high <= 1 for arm in arms.values())
    controls = {arm["name"] for arm in ended["arms"] if arm["control_of"]}
    assert set(arms) == kept | controls
    assert {"finetune"} | controls <= {one.against for one in report.comparisons}
    assert "<html" in orchestrator.report_html(job_id)

    store = ArtifactStore(stack.config.home / "artifacts")
    train = read_examples(store.folder(ended["dataset"]) / "train.parquet")
    shards = [store.folder(artifact.id) for artifact in store.list("shard")]
    annotated = [row for shard in shards for path in shard.glob("*.parquet") for row in read_annotated(path)]
    wanted = {example.id for example in train}
    mine = [row for row in annotated if row.example.id in wanted]  # the store has the shards of other jobs as well
    assert sorted(row.example.id for row in mine) == sorted(wanted)
    for row in mine:
        assert all(row.example.input[word.start : word.end] == word.text for word in row.attribution.words)

    with StudentClient(stack.student_url) as student:
        inputs = tuple(PredictionInput(input=sentence) for sentence in SENTENCES)
        answer = student.predict(PredictionRequest(model="tweets", inputs=inputs))
    assert answer.artifact == ended["fine_tuned_model"] == store.resolve("tweets")
    for sentence, prediction in zip(SENTENCES, answer.predictions, strict=True):
        assert set(prediction.probabilities or {}) == {"negative", "positive"}
        assert prediction.words
        assert all(sentence[word.start : word.end] == word.text for word in prediction.words)


def test_the_papers_recipe_trains_a_seq2seq_student_on_multiple_choice(
    stack: Stack, orchestrator: OrchestratorClient, real_data: Path, tmp_path: Path
) -> None:
    questions = real_data / "commonsense_qa" / "train.jsonl"
    rows = _first_rows(questions, 80, tmp_path / "questions.jsonl")
    more = _first_rows(questions, 100, tmp_path / "more.jsonl")  # of which 80 are known
    job = _job("scratch:t5-1x32", "scratch:t5-1x32", ["saliency", "teacher_labels"], "questions", min_probability=0)
    job_id = submit(orchestrator, {"training_file": rows, "unlabelled_file": more}, job)
    report = watch(orchestrator, job_id, lambda _: None, stack.check)

    assert report.task.kind == "choice"
    recipes = ["finetune", "saliency", "saliency+random_rationale", "teacher_labels"]
    assert [arm.recipe for arm in report.arms] == recipes
    ended = orchestrator.job(job_id)
    assert (ended["rows"]["unlabelled"], report.rows.unlabelled) == (20, 20)
    assert ended["rejected_rows"]["count"] == 80
    assert report.rationale.with_answer_in_input == report.rationale.rows  # the choices are part of each question
    assert report.rationale.share is not None
    assert report.rationale.chance is not None

    question = json.loads(rows.read_text(encoding="utf-8").splitlines()[0])
    with StudentClient(stack.student_url) as student:
        asked = PredictionInput(input=question["input"], choices=tuple(question["choices"]))
        prediction = student.predict(PredictionRequest(model="questions", inputs=(asked,))).predictions[0]
    assert prediction.label in question["choices"]
    assert sum((prediction.probabilities or {}).values()) == pytest.approx(1)


def test_the_stock_openai_client_runs_a_job(stack: Stack, tmp_path: Path) -> None:
    rows = tmp_path / "chat.jsonl"
    with rows.open("w") as file:
        for i in range(60):
            chat = [("user", f"The meal number {i} was {'great' if i % 2 else 'awful'}."), ("assistant", "ny"[i % 2])]
            messages = [{"role": role, "content": content} for role, content in chat]
            file.write(json.dumps({"messages": messages}) + "\n")
    client = openai.OpenAI(base_url=f"{stack.orchestrator_url}/v1", api_key="none needed here")
    uploaded = client.files.create(file=rows, purpose="fine-tune")
    body = _job("scratch:bert-1x16", "scratch:bert-1x16", "logit_kd", "chat")
    job = client.fine_tuning.jobs.create(training_file=uploaded.id, suffix="meals", **body)

    with OrchestratorClient(stack.orchestrator_url) as watcher:
        watch(watcher, job.id, lambda _: None, stack.check)

    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded"
    assert done.fine_tuned_model is not None
    assert client.models.retrieve(done.fine_tuned_model).id == done.fine_tuned_model
    assert job.id in [one.id for one in client.fine_tuning.jobs.list(limit=100).data]
    events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
    assert {event.object for event in events} == {"fine_tuning.job.event"}
    assert json.loads(client.files.content(done.result_files[0]).text)["job_id"] == job.id


def test_what_the_teacher_service_says_of_a_published_model(stack: Stack, tmp_path: Path) -> None:
    """The teacher explains any artifact of the store: here the student of another job."""
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as file:
        file.writelines(f'{{"input": "row {i} is {w}", "output": "{w}"}}\n' for i in range(60) for w in ("odd", "even"))
    with OrchestratorClient(stack.orchestrator_url) as client:
        job = _job("scratch:bert-1x16", "scratch:bert-1x16", "finetune", "parity")
        watch(client, submit(client, {"training_file": rows}, job), lambda _: None, stack.check)
    with TeacherClient(stack.teacher_url) as teacher:
        example = AttributionExample(input="row 7 is odd", output="odd")
        asked = AttributionRequest(model="parity", examples=(example,), target="gold", top_k=2)
        found = teacher.attribute(asked).results[0]
        with pytest.raises(UnknownName, match="saliency"):
            teacher.attribute(asked.model_copy(update={"method": "salience"}))
        with pytest.raises(NotFound, match="nowhere"):
            teacher.attribute(asked.model_copy(update={"model": "nowhere"}))
    assert [word.text for word in found.words] == ["row", "7", "is", "odd"]
    assert len(found.rationale) == 2
    assert found.rationale[0].start < found.rationale[1].start


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"model": "scratch:bert-2x"}, "model", "scratch:bert-2x128"),
        ({"training_file": "file-nowhere"}, "training_file", "file-nowhere"),
        ({"recipe": "salience"}, "method.distillation.recipe", "saliency"),
        ({"attribution": {"method": "lime"}}, "method.distillation.attribution.method", "integrated_gradients"),
        ({"seeds": []}, "method.distillation.seeds", "at least 1"),
        ({"template": "no place"}, "method.distillation.template", "{input}"),
        ({"colour": "red"}, "method.distillation.colour", "no such field"),
    ],
)
def test_a_bad_job_is_refused_at_the_door(
    orchestrator: OrchestratorClient, tmp_path: Path, change: dict[str, Any], param: str, words: str
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"input": "a", "output": "b"}\n')
    body: dict[str, Any] = _job("scratch:bert-1x16", "scratch:bert-1x16", "finetune", "bad")
    body["training_file"] = orchestrator.upload(rows)
    for name, value in change.items():
        place = body if name in ("model", "training_file") else body["method"]["distillation"]
        place[name] = value
    with pytest.raises((InvalidRequest, NotFound)) as caught:
        orchestrator.create_job(body)
    assert caught.value.param == param
    assert words in caught.value.message


def test_a_file_that_cannot_be_trained_on_fails_the_job_with_its_reasons(
    stack: Stack, orchestrator: OrchestratorClient, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"input": "no answer"}\n{"output": "no question"}\nnot json\n')
    job = _job("scratch:bert-1x16", "scratch:bert-1x16", "finetune", "bad")
    with pytest.raises(StageFailed, match="line 1"):
        watch(orchestrator, submit(orchestrator, {"training_file": rows}, job), lambda _: None, stack.check)
