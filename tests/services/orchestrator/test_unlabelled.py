"""Rows without an output: labelled by the teacher in shards of their own, and never mixed with the training rows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stand.bench import Bench

from services.orchestrator.jobs import Arm, Event, Job, Rows
from services.orchestrator.phases import annotate
from services.orchestrator.phases.annotate import Annotated
from services.orchestrator.phases.train import shards, student_spec, unlabelled_shards
from understudy.data.parquet import AnnotatedExample, read_annotated, read_inputs
from understudy.errors import Overloaded
from understudy.schemas import AttributionRequest, AttributionResponse
from understudy.testing import FakeTeacher

MANY = {"recipe": ["logit_kd+teacher_labels"]}


def questions(rows: Any, count: int, tag: str = " more", **more: Any) -> str:
    """Rows that nobody has seen, without an output."""
    inputs = [json.loads(line)["input"] for line in rows(count, tag).splitlines()]
    return "".join(json.dumps({"input": text, **more}) + "\n" for text in inputs)


def submitted(bench: Bench, rows: Any, content: str, **spec: Any) -> Job:
    file_id = bench.upload(content, "unlabelled.jsonl")
    return bench.submit(training_file=bench.upload(rows(80)), spec={**MANY, "unlabelled_file": file_id, **spec})


def annotated(bench: Bench, rows: Any, content: str, **spec: Any) -> Job:
    """A job whose rows are annotated; it is ended there, so that nobody works on it beside the next."""
    job = bench.work(submitted(bench, rows, content, **spec), until="train")
    assert job.phase == "train", job.error
    bench.context.flow.end(job.id, "cancelled", Event(message="Job cancelled"))
    bench.sent.clear()
    return job


def labelled(bench: Bench, job: Job) -> list[AnnotatedExample]:
    return read_annotated(*unlabelled_shards(bench.context, job))


def test_each_row_gets_the_teachers_answer_its_probability_and_the_words_that_decided_it(
    bench: Bench, rows: Any, teacher: FakeTeacher
) -> None:
    job = annotated(bench, rows, questions(rows, 40))
    found = labelled(bench, job)
    assert len(found) == job.facts.unlabelled_annotated == job.facts.rows.unlabelled == 40  # type: ignore[union-attr]
    for row in found:
        assert row.example.output == row.attribution.prediction == row.attribution.explained
        assert row.example.output in row.example.input
        assert set(row.attribution.probabilities or {}) == {"awful", "fine", "great"}
    targets = {getattr(request, "target", None) for request in teacher.requests}
    assert targets == {"gold", "predicted"}


def test_training_shards_hold_training_rows_alone_and_students_are_given_both(bench: Bench, rows: Any) -> None:
    job = annotated(bench, rows, questions(rows, 20), min_probability=0.7)
    train = read_annotated(*shards(bench.context, job))
    assert len(train) == job.facts.rows.train == job.train_rows  # type: ignore[union-attr]
    assert not {row.example.input for row in train} & {row.example.input for row in labelled(bench, job)}
    spec = student_spec(bench.context, job, "finetune", 0)
    assert (spec.train, spec.unlabelled) == (shards(bench.context, job), unlabelled_shards(bench.context, job))
    assert spec.min_probability == 0.7


def test_the_arms_of_auto_learn_from_labels_where_there_is_a_file(bench: Bench, rows: Any) -> None:
    job = bench.work(submitted(bench, rows, questions(rows, 20), recipe="auto"), until="preflight")
    assert "teacher_labels" in {arm.name for arm in job.facts.arms}
    job = bench.work(bench.submit(spec={"recipe": "auto"}), until="preflight")
    assert not any("teacher_labels" in arm.name for arm in job.facts.arms)


def test_the_data_set_holds_them_without_what_was_set_aside_and_the_job_says_what_that_was(
    bench: Bench, rows: Any
) -> None:
    content = questions(rows, 20) + questions(rows, 8, "") + '{"output": "great"}\n' + questions(rows, 2)
    job = bench.work(submitted(bench, rows, content), until="preflight")
    folder = bench.context.artifacts.folder(str(job.facts.dataset))
    assert len(read_inputs(folder / "unlabelled.parquet")) == job.facts.rows.unlabelled == 20  # type: ignore[union-attr]
    assert {row.split for row in job.facts.rejected_rows} == {"unlabelled"}
    reasons = [row.reason for row in job.facts.rejected_rows]
    assert len([reason for reason in reasons if reason.endswith("split has the same input")]) == 8
    assert len([reason for reason in reasons if reason.startswith("the same input as line")]) == 2
    assert job.facts.rows.rejected == 11  # type: ignore[union-attr]


def test_outputs_that_are_there_are_not_read_and_that_is_said(bench: Bench, rows: Any) -> None:
    job = annotated(bench, rows, questions(rows, 20, output="nonsense"))
    assert {row.example.output for row in labelled(bench, job)} == {"awful", "fine", "great"}
    assert any("20 of 20 rows of unlabelled_file have an output, which is not read" in m for m in bench.messages(job))


@pytest.mark.parametrize("tag", ["", " none"], ids=["all known", "no row valid"])
def test_a_file_of_which_nothing_remains_fails_the_job_by_its_field(bench: Bench, rows: Any, tag: str) -> None:
    content = questions(rows, 20, "") if not tag else "nonsense\n"
    job = bench.work(submitted(bench, rows, content), until="preflight")
    assert job.error is not None
    assert (job.status, job.error.param) == ("failed", "method.distillation.unlabelled_file")
    assert "unlabelled.jsonl" in job.error.message or "no row remains" in job.error.message


def test_the_same_job_again_asks_the_teacher_nothing(bench: Bench, rows: Any, teacher: FakeTeacher) -> None:
    content = questions(rows, 40)
    first = unlabelled_shards(bench.context, annotated(bench, rows, content))
    teacher.requests.clear()
    assert unlabelled_shards(bench.context, annotated(bench, rows, content)) == first
    assert teacher.requests == []


def test_a_teacher_that_fails_now_and_then_costs_no_row(bench: Bench, rows: Any, teacher: FakeTeacher) -> None:
    job = bench.work(submitted(bench, rows, questions(rows, 40)), until="annotate")
    teacher.fail_next(*[Overloaded("full")] * 12)
    job = bench.work(job, until="train")
    assert len({row.example.id for row in labelled(bench, job)}) == 40


def test_a_budget_counts_them_and_what_it_leaves_without_labels_trains_no_recipe_of_labels(
    bench: Bench, rows: Any
) -> None:
    job = annotated(bench, rows, questions(rows, 40), recipe=["logit_kd", "teacher_labels"])
    tokens = sum(row.attribution.tokens for row in read_annotated(*shards(bench.context, job)))
    assert job.facts.teacher_tokens > tokens
    bench = Bench(bench.context.settings, FakeTeacher(fingerprint="f" * 16))  # whose answers are not known yet
    spec = {"recipe": ["logit_kd", "teacher_labels"], "budget": {"teacher_tokens": tokens}}
    job = annotated(bench, rows, questions(rows, 40), **spec)
    assert (job.facts.annotated, job.facts.unlabelled_annotated) == (job.facts.rows.train, 0)  # type: ignore[union-attr]
    assert [arm.name for arm in job.facts.arms] == ["finetune", "logit_kd"]
    assert "and 0 of 40 rows without an output when its part" in job.facts.cuts[0]
    assert "are left out" in job.facts.cuts[1]
    bench.context.close()


def test_rows_to_which_the_teacher_says_nothing_are_no_labels(bench: Bench) -> None:
    job = bench.job(spec={"budget": None}).with_facts(
        rows=Rows(train=16, validation=2, test=2, rejected=0, unlabelled=8),
        arms=(Arm(name="finetune", candidate=True), Arm(name="teacher_labels", candidate=True)),
    )
    whole = Annotated(shard="a", rows=16, fingerprint="f")
    part = Annotated(shard="b", rows=8, fingerprint="f", unlabelled=True, empty=3)
    assert annotate.absorb(job, [whole, part]).facts.unlabelled_annotated == 5
    none = part.model_copy(update={"empty": 8, "shard": None})
    left = annotate.absorb(job, [whole, none]).facts
    assert ([arm.name for arm in left.arms], len(left.cuts)) == (["finetune"], 1)


def test_answers_of_the_teacher_that_broke_off_are_no_labels_and_that_is_said(
    bench: Bench, rows: Any, teacher: FakeTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = teacher._attributions

    def said(request: AttributionRequest) -> AttributionResponse:
        found = whole(request)
        broken = [request.target == "predicted" and " 7 more " in one.input for one in request.examples]
        pairs = zip(found.results, broken, strict=True)
        results = tuple(one.model_copy(update={"unfinished": cut}) for one, cut in pairs)
        return found.model_copy(update={"results": results})

    monkeypatch.setattr(teacher, "_attributions", said)
    job = annotated(bench, rows, questions(rows, 40))
    assert len(labelled(bench, job)) == job.facts.unlabelled_annotated == 39
    assert "1 of 40 rows without an output have no label: the teacher's answer was longer" in job.facts.cuts[0]
    assert job.facts.annotated == job.facts.rows.train  # type: ignore[union-attr]
