"""What a job's report carries beside its figures: a manifest that trains an arm again, and how faithful maps were."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.orchestrator.jobs import Event, JobError, SetAside
from services.orchestrator.phases import evaluate, faithfulness
from services.orchestrator.phases.faithfulness import SAMPLE, measured
from services.orchestrator.settings import Settings
from understudy.data.parquet import read_examples
from understudy.errors import Conflict, ModelError
from understudy.evaluation.report import Report
from understudy.reproduce import reproduce
from understudy.schemas import AttributionRequest, Example, Faithfulness, PredictionRequest
from understudy.testing import FakeTeacher

pytestmark = pytest.mark.usefixtures("fork_server")

SPEC = {"recipe": "logit_kd", "seeds": [0], "hyperparameters": {"max_steps": 4}}


class FaithfulTeacher(FakeTeacher):
    """Its words decide its answers and random ones do not; or it fails whenever it is asked."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self.asked: list[AttributionRequest] = []

    def _attributions(self, request: AttributionRequest) -> Any:
        if not request.faithfulness:
            return super()._attributions(request)
        self.asked.append(request)
        if self.fails:
            raise ModelError("this model cannot be asked without its words")
        needed = 0.1 if request.method == "random" else 0.6
        figures = Faithfulness(
            comprehensiveness=needed,
            sufficiency=0.1,
            aopc_comprehensiveness=needed,
            aopc_sufficiency=0.1,
            log_odds=-needed,
        )
        answer = super()._attributions(request)
        results = tuple(one.model_copy(update={"faithfulness": figures}) for one in answer.results)
        return answer.model_copy(update={"results": results})


def report_of(bench: Any, job: Any) -> Report:
    done = bench.work(job)
    assert done.status == "succeeded", done.error
    folder = bench.context.artifacts.folder(done.facts.report)
    return Report.model_validate_json((folder / "report.json").read_bytes())


def test_a_jobs_report_carries_a_manifest_from_which_an_arm_is_trained_again(
    settings: Settings, make_bench: Any
) -> None:
    bench = make_bench(settings, FaithfulTeacher())
    job = bench.submit(spec=SPEC)
    report = report_of(bench, job)
    manifest = report.manifest
    assert manifest is not None
    assert {(one.recipe, one.size) for one in manifest.arms} == {("finetune", None), ("logit_kd", None)}
    assert all(one.environment and one.environment.threads == settings.threads_per_child for one in manifest.arms)
    assert all(one.answers_sha256 for one in manifest.arms)
    assert manifest.teacher is not None
    assert manifest.teacher.fingerprint == FakeTeacher().fingerprint
    published = bench.context.jobs.get(job.id).fine_tuned_model
    again = reproduce(published, artifacts=settings.home / "artifacts", arm="logit_kd")
    assert (again.verdict, again.recipe) == ("bit-equal", "logit_kd")
    assert report.teacher_map is not None
    bench.context.close()


class Grip:
    """A hold on an item that nobody takes away; its events are kept."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def check(self) -> None:
        """Nothing has happened."""

    def progress(self, completed: int, total: int | None = None) -> None:
        """Nobody looks."""

    def event(self, event: Event) -> None:
        self.said.append(event.message)


def test_maps_are_measured_beside_random_words_once_for_all_jobs(
    settings: Settings, make_bench: Any, tmp_path: Path
) -> None:
    teacher, grip = FaithfulTeacher(), Grip()
    bench = make_bench(settings, teacher)
    job = bench.work(bench.submit(spec=SPEC), until="train")
    model = bench.context.teachers.model("teacher", grip.check)
    first = measured(bench.context, job, model, tmp_path / "first", grip)
    assert first is not None
    assert len(first.found) == len(first.random) == min(SAMPLE, job.train_rows)
    assert {one.comprehensiveness for one in first.found} == {0.6}
    assert {one.comprehensiveness for one in first.random} == {0.1}
    by_method = {name: [r for r in teacher.asked if r.method == name] for name in ("saliency", "random")}
    asked = {name: [row.id for r in requests for row in r.examples] for name, requests in by_method.items()}
    assert asked["saliency"] == asked["random"]
    before = len(teacher.asked)
    assert measured(bench.context, job, model, tmp_path / "second", grip) == first
    assert len(teacher.asked) == before
    bench.context.close()


def test_a_teacher_that_cannot_say_how_faithful_it_is_is_told_and_fails_nothing(
    settings: Settings, make_bench: Any, tmp_path: Path
) -> None:
    grip = Grip()
    bench = make_bench(settings, FaithfulTeacher(fails=True))
    job = bench.work(bench.submit(spec=SPEC), until="train")
    model = bench.context.teachers.model("teacher", grip.check)
    assert measured(bench.context, job, model, tmp_path, grip) is None
    assert grip.said == ["How faithful the maps are was not measured: this model cannot be asked without its words"]
    bench.context.close()


def test_the_rows_of_the_measurement_are_drawn_without_holding_all_of_them() -> None:
    texts = [f"text {number}" for number in range(1000)]
    made: list[weakref.ref[Example]] = []
    most = 0

    def rows() -> Iterator[Example]:
        nonlocal most
        for text in texts:
            row = Example(id=text, input=text, output="fine")
            made.append(weakref.ref(row))
            yield row
            most = max(most, sum(one() is not None for one in made))

    drawn = [row.input for row in faithfulness._drawn(rows())]
    assert drawn == sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())[:SAMPLE]
    assert SAMPLE <= most <= SAMPLE + 3


def test_rows_that_were_set_aside_are_not_measured(settings: Settings, make_bench: Any) -> None:
    bench = make_bench(settings, FakeTeacher())
    job = bench.work(bench.submit(spec={"max_train_rows": 20}), until="train")
    whole = [row.id for row in faithfulness._learned(bench.context, job)]
    assert len(whole) == 20
    lost = SetAside(index=0, unlabelled=False, rows=tuple(whole[:5]), error=JobError(code="unknown", message="lost"))
    left = job.with_facts(set_aside=(lost,), annotated=15)
    assert [row.id for row in faithfulness._learned(bench.context, left)] == whole[5:]
    bench.context.close()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_teacher_with_other_weights_than_it_explained_with_is_not_put_into_a_report(
    settings: Settings, make_bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    teacher = FakeTeacher()
    bench = make_bench(settings, teacher)
    job = bench.work(bench.submit(spec=SPEC), until="train")
    test = read_examples(bench.context.artifacts.folder(job.facts.dataset) / "test.parquet")
    kept: list[object] = []
    monkeypatch.setattr(bench.context.rationales, "keep", lambda *asked: kept.append(asked))
    if when == "before":
        teacher.fingerprint = "f" * 16
    else:
        answered = teacher._predictions

        def changing(request: PredictionRequest) -> Any:
            teacher.fingerprint = "f" * 16
            return answered(request)

        teacher._predictions = changing  # type: ignore[method-assign]
    with pytest.raises(Conflict, match="changed during the job") as raised:
        evaluate._of_the_teacher(bench.context, job, test, tmp_path, Grip())
    assert (raised.value.param, kept) == ("method.distillation.teacher.model", [])
    before = job.with_facts(fingerprint=None)  # as of a job that has none
    teacher.__dict__.pop("_predictions", None)
    assert evaluate._of_the_teacher(bench.context, before, test, tmp_path, Grip())["teacher"].model == "teacher"
    bench.context.close()


def test_figures_of_maps_with_other_weights_are_not_kept(settings: Settings, make_bench: Any, tmp_path: Path) -> None:
    teacher, grip = FaithfulTeacher(), Grip()
    bench = make_bench(settings, teacher)
    job = bench.work(bench.submit(spec=SPEC), until="train")
    model = bench.context.teachers.model("teacher", grip.check)
    teacher.fingerprint = "f" * 16
    assert measured(bench.context, job, model, tmp_path / "first", grip) is None
    assert "changed during the job" in grip.said[0]
    teacher.fingerprint = model.fingerprint
    before = len(teacher.asked)
    assert measured(bench.context, job, model, tmp_path / "second", grip) is not None
    assert len(teacher.asked) > before, "nothing was kept of the other teacher"
    bench.context.close()


def test_one_that_says_nothing_of_it_is_not_measured(settings: Settings, make_bench: Any, tmp_path: Path) -> None:
    bench, grip = make_bench(settings, FakeTeacher()), Grip()
    job = bench.work(bench.submit(spec=SPEC), until="train")
    assert measured(bench.context, job, bench.context.teachers.model("teacher", grip.check), tmp_path, grip) is None
    bench.context.close()
