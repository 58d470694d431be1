"""Aliases that a job names: they are looked up once, and what moves them meanwhile changes no arm and no question."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.orchestrator.jobs import Event, Job
from services.orchestrator.needs import Bounds, needs
from services.orchestrator.phases import publish, train
from services.orchestrator.phases.manifest import _teacher as recorded
from services.orchestrator.pipeline import first_items
from services.orchestrator.wire import job_object
from understudy.schemas import SupervisedSpec
from understudy.testing import FakeTeacher, tiny_classifier
from understudy.training.spec import TrainSpec

pytestmark = pytest.mark.usefixtures("fork_server")


@pytest.fixture
def models(bench: Any, tmp_path: Path) -> tuple[str, str]:
    """Two models of the store; the alias `best` names the first."""
    folders = (tiny_classifier(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    first, second = (bench.context.artifacts.publish("model", folder).id for folder in folders)
    bench.context.artifacts.set_alias("best", first)
    return str(first), str(second)


@pytest.fixture
def moved(bench: Any, teacher: FakeTeacher, models: tuple[str, str]) -> Callable[..., Job]:
    """`moved(model="best")`: such a job before its first training, whose alias has moved since it was validated."""

    def job(**changes: Any) -> Job:
        teacher.models = ("teacher", *models)
        job: Job = bench.work(bench.submit(**changes), until="preflight")
        assert job.phase == "preflight", job.error
        bench.context.artifacts.set_alias("best", models[1], by="ftjob-another")
        job = bench.work(job, until="train")
        assert job.phase == "train", job.error
        return job

    return job


def starts(bench: Any, job: Job) -> set[str]:
    """What the arms of a job begin with."""
    return {train.student_spec(bench.context, job, arm.name, 0).model for arm in job.facts.arms}


@pytest.mark.parametrize(("asked", "meant"), [("best", "{}"), ("cut:1v50@best", "cut:1v50@{}")])
def test_every_arm_begins_with_what_the_students_alias_named_when_the_job_began(
    bench: Any, models: tuple[str, str], moved: Callable[..., Job], asked: str, meant: str
) -> None:
    job = moved(model=asked)
    assert bench.context.artifacts.resolve("best") == models[1]
    assert starts(bench, job) == {meant.format(models[0])}


def test_an_alias_of_a_job_without_a_teacher_is_kept_as_well(bench: Any, rows: Any, models: tuple[str, str]) -> None:
    job = bench.job(training_file=bench.upload(rows(80)), model="best").model_copy(update={"spec": SupervisedSpec()})
    bench.context.flow.submit(job, first_items(job, bench.context.settings))
    job = bench.work(job, until="train")
    bench.context.artifacts.set_alias("best", models[1])
    assert starts(bench, job) == {models[0]}


def test_a_teacher_is_asked_by_the_artifact_that_its_alias_named(
    bench: Any, teacher: FakeTeacher, models: tuple[str, str], moved: Callable[..., Job]
) -> None:
    job = moved(model="cut:1", spec={"teacher": {"model": "best"}})
    assert {request.model for request in teacher.requests} == {job.facts.teacher} == {models[0]}
    assert (starts(bench, job), job.cut_from_teacher) == ({f"cut:1@{models[0]}"}, True)
    assert (recorded(job).model, recorded(job).reference) == ("best", models[0])


def test_a_teacher_that_is_trained_first_begins_with_what_its_alias_named(
    bench: Any, monkeypatch: pytest.MonkeyPatch, models: tuple[str, str]
) -> None:
    job = bench.work(bench.submit(spec={"teacher": {"model": "best", "finetune": True}}), until="teacher")
    bench.context.artifacts.set_alias("best", models[1])
    asked: list[TrainSpec] = []

    def training(context: Any, item: Any, _: Any, spec: TrainSpec, *__: Any) -> Any:
        asked.append(spec)
        return SimpleNamespace(model=tiny_classifier(context.scratch(item) / "model"))

    monkeypatch.setattr(train, "_train", training)
    (item,) = bench.context.flow.items(job.id, "teacher")
    train.run_teacher(bench.context, job, item, SimpleNamespace())  # type: ignore[arg-type]
    assert [spec.model for spec in asked] == [models[0]]


def test_people_are_shown_the_name_that_they_gave_and_what_it_stood_for(
    bench: Any, models: tuple[str, str], moved: Callable[..., Job]
) -> None:
    job = moved(model="best")
    shown = job_object(job, {})
    assert (shown.model, shown.stood_for) == ("best", {"best": models[0]})
    assert f"'best' is {models[0]} in this job, wherever the alias moves" in bench.messages(job)
    assert publish._named(job.model, job.student) == f"`{models[0]}`, asked for as `best`"
    assert publish._named("scratch:bert-1x16", "scratch:bert-1x16") == "`scratch:bert-1x16`"
    report: Any = SimpleNamespace(published=SimpleNamespace(recipe="finetune", seed=0, artifact="model-none"))
    origin = publish._provenance(job, report, None)
    assert (origin["base_model"], origin["stood_for"]) == (models[0], {"best": models[0]})


def test_what_an_alias_stood_for_stays_as_long_as_its_job_may_need_it(
    bench: Any, models: tuple[str, str], moved: Callable[..., Job], tmp_path: Path
) -> None:
    job = moved(model="best")
    store, third = bench.context.artifacts, tiny_classifier(tmp_path / "third", seed=2)
    store.set_alias("best", store.publish("model", third).id)  # from now on no rollback leads to the first
    now, bounds = time.time() + 3600, Bounds(retention=0, grace=0, cache_bytes=0, cache_seconds=0)
    with bench.context.database.read() as sql:
        assert needs(sql, store, bounds, now).reasons[models[0]].startswith(f"job {job.id}")
    bench.context.flow.end(job.id, "cancelled", Event(message="over"))
    with bench.context.database.read() as sql:
        assert models[0] not in needs(sql, store, bounds, now).reasons


def test_a_job_from_before_aliases_were_kept_goes_on_with_their_names(bench: Any) -> None:
    job = bench.job(model="best", spec={"teacher": {"model": "wise"}}).with_facts(teacher="wise")
    old = json.loads(job.model_dump_json())
    del old["facts"]["stood_for"]
    job = Job.model_validate(old)
    assert (job.student, job.student_so_far, job.teacher) == ("best", "best", "wise")
    assert job.model_copy(update={"model": "cut:2@best"}).student == "cut:2@best"
    assert job.model_copy(update={"model": "cut:2"}).student == "cut:2@wise"
