"""The phases preflight and annotate against a teacher without a model: every row once, in order, or an honest error."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import pytest

from services.orchestrator.jobs import Job, Rows
from services.orchestrator.phases.annotate import plan
from understudy.data.parquet import AnnotatedExample, read_annotated, read_examples
from understudy.errors import InvalidRequest, Overloaded, Unavailable
from understudy.schemas import Example
from understudy.testing import FakeTeacher


def annotated(bench: Any, job: Job) -> list[AnnotatedExample]:
    shards = [result["shard"] for result in bench.context.flow.results(job.id, "annotate")]
    return read_annotated(*(bench.context.artifacts.folder(shard) / "shard.parquet" for shard in shards))


def train_ids(bench: Any, job: Job) -> list[str]:
    return [row.id for row in read_examples(bench.context.artifacts.folder(job.facts.dataset) / "train.parquet")]


def test_every_training_row_is_annotated_once_in_shards_and_in_order(bench: Any, rows: Any) -> None:
    job = bench.work(bench.submit(training_file=bench.upload(rows(100))), until="train")
    assert [row.example.id for row in annotated(bench, job)] == train_ids(bench, job)
    assert [row.attribution.id for row in annotated(bench, job)] == train_ids(bench, job)
    results = bench.context.flow.results(job.id, "annotate")
    assert len(results) == -(-job.facts.rows.train // 16)
    assert job.facts.fingerprint == "0123456789abcdef"


@pytest.mark.parametrize(("rows", "size"), [(100, 16), (16_000, 16), (32_000, 32), (1_000_000, 64)])
def test_a_job_of_very_many_rows_has_larger_shards(bench: Any, rows: int, size: int) -> None:
    job = bench.job().with_facts(rows=Rows(train=rows, validation=2, test=2, rejected=0, unlabelled=3))
    spans = [item.payload for item in plan(job, 16)]
    assert [span["start"] for span in spans if not span["unlabelled"]] == list(range(0, rows, size))
    assert (spans[-2]["stop"], spans[-1]["stop"], spans[-1]["unlabelled"]) == (rows, 3, True)


def test_the_words_are_about_the_expected_answer(bench: Any) -> None:
    job = bench.work(bench.submit(spec={"attribution": {"top_k": 2}}), until="train")
    row = annotated(bench, job)[0]
    assert row.attribution.explained == row.example.output
    assert len(row.attribution.rationale) == 2
    assert row.example.output in {word.text for word in row.attribution.rationale}


def test_only_the_rows_that_students_will_learn_from_are_paid_for(bench: Any) -> None:
    job = bench.work(bench.submit(spec={"max_train_rows": 20}), until="train")
    assert [row.example.id for row in annotated(bench, job)] == train_ids(bench, job)[:20]


def test_preflight_tries_no_row_that_nobody_will_learn_from(bench: Any) -> None:
    job = bench.work(bench.submit(spec={"max_train_rows": 5}), until="annotate")
    assert any("is right on 5 of the first 5 training examples" in message for message in bench.messages(job))


def test_preflight_keeps_no_training_rows_in_memory(bench: Any, rows: Any) -> None:
    job = bench.work(bench.submit(training_file=bench.upload(rows(400, "-kept"))), until="annotate")
    gc.collect()
    kept = [one for one in gc.get_objects() if type(one) is Example and "-kept" in one.input]
    assert job.facts.rows.train > 200
    assert len(kept) < 50


def test_a_teacher_that_fails_now_and_then_costs_attempts_and_no_row(bench: Any, teacher: FakeTeacher) -> None:
    job = bench.work(bench.submit(), until="annotate")
    teacher.fail_next(*[Overloaded("full")] * 12)
    job = bench.work(job, until="train")
    assert Counter(row.example.id for row in annotated(bench, job)) == Counter(train_ids(bench, job))


def test_a_teacher_that_stays_away_fails_the_job_after_all_attempts(bench: Any, teacher: FakeTeacher) -> None:
    job = bench.work(bench.submit(), until="annotate")
    teacher.fail_next(*[Overloaded("the queue is full")] * 100_000)
    job = bench.work(job, until="train")
    assert (job.status, job.error.code) == ("failed", "overloaded")
    assert "attempt 3 of 3" in bench.messages(job)[-1]


def test_a_teacher_whose_model_changes_on_the_way_fails_the_job(bench: Any, teacher: FakeTeacher) -> None:
    job = bench.work(bench.submit(), until="annotate")
    served = teacher._answer

    def changing(*request: Any) -> Any:
        teacher.fingerprint = f"{len(teacher.requests):016x}"
        return served(*request)

    teacher._answer = changing
    job = bench.work(job, until="train")
    assert (job.status, job.error.param) == ("failed", "method.distillation.teacher.model")
    assert "changed during the job" in job.error.message


def test_preflight_says_how_well_the_teacher_knows_the_first_rows(bench: Any) -> None:
    job = bench.work(bench.submit(), until="annotate")
    assert job.facts.teacher == "teacher"
    assert any("is right on 16 of the first 16 training examples" in message for message in bench.messages(job))


def test_preflight_waits_for_a_teacher_that_is_not_ready_and_says_so(bench: Any, teacher: FakeTeacher) -> None:
    served = teacher._answer
    asked: list[str] = []

    def loading(method: str, path: str, body: bytes) -> Any:
        asked.append(path)
        if path == "/readyz" and asked.count("/readyz") < 3:
            raise Unavailable("the model is being loaded")
        return served(method, path, body)

    teacher._answer = loading  # type: ignore[method-assign]
    job = bench.work(bench.submit(), until="annotate")
    assert job.phase == "annotate"
    assert any("The teacher is not ready: waiting for it" in message for message in bench.messages(job))


def test_preflight_of_a_teacher_to_be_trained_asks_for_no_model(bench: Any, teacher: FakeTeacher) -> None:
    spec = {"teacher": {"model": "scratch:bert-1x16", "finetune": True}}
    job = bench.work(bench.submit(spec=spec), until="teacher")
    assert (job.facts.teacher, teacher.requests) == (None, [])


def test_an_unknown_teacher_fails_the_job_by_its_field_and_says_what_there_is(bench: Any) -> None:
    job = bench.work(bench.submit(spec={"teacher": {"model": "nobody"}}))
    assert (job.status, job.phase, job.error.code) == ("failed", "preflight", "model_not_found")
    assert job.error.param == "method.distillation.teacher.model"
    assert "there is teacher" in job.error.message


@pytest.mark.parametrize(("param", "told"), [("target", "attribution.target"), ("examples[0].output", "teacher.model")])
def test_what_the_teacher_refuses_is_told_in_the_jobs_own_fields(
    bench: Any, teacher: FakeTeacher, param: str, told: str
) -> None:
    teacher.fail_next(InvalidRequest("that is nothing that I know", param=param))
    job = bench.work(bench.submit())
    assert (job.status, job.error.param) == ("failed", f"method.distillation.{told}")


def test_a_teacher_that_says_one_thing_to_everything_is_refused_before_any_cost(
    bench: Any, teacher: FakeTeacher, rows: Any
) -> None:
    texts = (
        rows(80).replace(" was great I", " was so I").replace(" was fine I", " was so I").replace("was awful", "was so")
    )
    job = bench.work(bench.submit(training_file=bench.upload(texts)))
    assert (job.status, job.phase, job.error.code) == ("failed", "preflight", "model_error")
    assert "answers 'awful' to each" in job.error.message
    assert len(teacher.requests) == 1


@pytest.mark.parametrize("limit", [1, 5])
def test_shards_do_not_depend_on_how_much_a_teacher_takes_at_once(
    settings: Any, make_bench: Any, teacher: FakeTeacher, limit: int
) -> None:
    bench = make_bench(settings.model_copy(update={"teacher_max_examples": limit}), teacher)
    job = bench.work(bench.submit(), until="train")
    assert [row.example.id for row in annotated(bench, job)] == train_ids(bench, job)
    bench.context.close()
