"""The phases teacher and train: real trainings in child processes, and their errors in the job's own words."""

from __future__ import annotations

from typing import Any

import pytest

from services.orchestrator.jobs import Event, Item, Job
from services.orchestrator.phases.train import Trained, absorb, plan, student_spec
from services.orchestrator.pipeline import STAGES
from services.orchestrator.wire import checkpoint_object
from understudy.training.spec import TrainResult

pytestmark = pytest.mark.usefixtures("fork_server")


RESULT = {
    "model": "model",
    "validation_accuracy": 0.5,
    "validation_loss": 1.0,
    "validation_rows": 10,
    "best_step": 40,
    "steps": 100,
    "planned_steps": 100,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "seconds": 1.0,
    "parameters": 1,
    "device": "cpu",
    "instances": 10,
}


class Grip:
    """Keeps what a phase says; `stop_at` is the step at which the work must stop."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.events: list[Event] = []
        self.steps: list[tuple[int, int | None]] = []
        self.stop_at = stop_at

    def check(self) -> None:
        if self.stop_at is not None and self.steps and self.steps[-1][0] >= self.stop_at:
            raise InterruptedError

    def progress(self, completed: int, total: int | None = None) -> None:
        self.steps.append((completed, total))
        self.check()

    def event(self, event: Event) -> None:
        self.events.append(event)


def first_item(bench: Any, job: Job) -> Item:
    return bench.context.flow.items(job.id, job.phase)[0]  # type: ignore[no-any-return]


def test_a_teacher_is_trained_first_and_published_and_then_named_by_its_artifact(bench: Any) -> None:
    teacher = {"model": "scratch:bert-1x32", "finetune": True, "hyperparameters": {"max_steps": 2}}
    job = bench.work(bench.submit(spec={"teacher": teacher}), until="annotate")
    assert job.phase == "annotate", job.error
    artifact = bench.context.artifacts.get(job.facts.teacher)
    assert artifact.meta == {"role": "teacher", "job_id": job.id, "base_model": "scratch:bert-1x32"}
    assert {"task.json", "card.json", "model.safetensors"} <= set(artifact.files)


def test_a_teacher_that_cannot_be_trained_fails_the_job_by_the_teachers_field(bench: Any) -> None:
    job = bench.work(bench.submit(spec={"teacher": {"model": "no/such", "finetune": True}}))
    assert (job.status, job.phase, job.error.code) == ("failed", "teacher", "model_not_found")
    assert job.error.param == "method.distillation.teacher.model"


def test_every_recipe_is_trained_with_every_seed_a_round_of_arms_before_the_next(bench: Any) -> None:
    job = bench.work(bench.submit(spec={"seeds": [4, 5], "recipe": "rationale_gate"}), until="train")
    arms = [(item.payload["arm"]["name"], item.payload["seed"]) for item in plan(job)]
    names = ["finetune", "rationale_gate", "rationale_gate+random_rationale"]
    assert arms == [(name, seed) for seed in (4, 5) for name in names]


def test_the_learning_curve_trains_every_arm_with_every_seed_on_each_size_too_after_all_rows(bench: Any) -> None:
    job = bench.work(bench.submit(spec={"seeds": [4, 5], "recipe": "logit_kd", "sizes": [30, 20]}), until="train")
    found = [(item.payload["size"], item.payload["seed"], item.payload["arm"]["name"]) for item in plan(job)]
    names = ["finetune", "logit_kd"]
    assert found == [(size, seed, name) for size in (None, 20, 30) for seed in (4, 5) for name in names]
    assert job.facts.estimate.runs == len(found)
    few = job.with_facts(annotated=25)  # a budget ended annotation there
    assert {item.payload["size"] for item in plan(few)} == {None, 20}


def test_a_point_of_the_learning_curve_is_trained_on_so_many_rows_and_says_so(bench: Any) -> None:
    spec = {"recipe": "finetune", "sizes": [20], "hyperparameters": {"max_steps": 2}}
    job = bench.work(bench.submit(spec=spec), until="train")
    item = bench.context.flow.items(job.id, "train")[1]
    trained: Any = STAGES["train"].run(bench.context, job, item, Grip())
    assert (trained.size, trained.result.instances) == (20, 20)
    assert bench.context.artifacts.get(trained.artifact).meta["size"] == 20
    shown = checkpoint_object(item.model_copy(update={"result": trained.model_dump(mode="json")}))
    assert shown.size == 20


def test_what_a_job_says_of_training_reaches_every_student_and_lora_no_teacher(bench: Any) -> None:
    chosen = {"max_steps": 5, "patience": 2, "precision": "float32"}
    spec = {"hyperparameters": chosen, "lora": {"rank": 4}, "max_train_rows": 30}
    job = bench.work(bench.submit(spec=spec), until="train")
    asked = student_spec(bench.context, job, "logit_kd", 3)
    assert (asked.hyperparameters.patience, asked.hyperparameters.precision) == (2, "float32")
    assert asked.lora is not None
    assert (asked.lora.rank, asked.max_train_rows, asked.unlabelled) == (4, 30, ())
    assert student_spec(bench.context, job, "logit_kd", 3, size=20).max_train_rows == 20


def test_only_what_ran_out_of_time_is_told_as_cut_by_the_budget(bench: Any) -> None:
    job = bench.work(bench.submit(spec={"recipe": "finetune", "budget": {"seconds": 60}}), until="train")
    whole = TrainResult.model_validate(RESULT)
    arm = job.facts.arms[0]
    early = Trained(arm=arm, seed=0, artifact="a", result=whole.model_copy(update={"steps": 40}))
    assert absorb(job, [early]).facts.cuts == ()
    (cut,) = absorb(job, [early, early.model_copy(update={"out_of_time": True})]).facts.cuts
    assert cut.startswith("1 of 2 trainings ended")
    assert "at 40 to 40 of 100 steps" in cut


def test_an_arm_says_how_it_goes_and_becomes_a_model_that_names_its_recipe_and_seed(bench: Any) -> None:
    spec = {"recipe": "finetune", "seeds": [3], "hyperparameters": {"max_steps": 3}}
    job = bench.work(bench.submit(spec=spec), until="train")
    grip = Grip()
    trained: Any = STAGES["train"].run(bench.context, job, first_item(bench, job), grip)
    assert grip.steps[-1] == (3, 3)
    assert (trained.arm.name, trained.seed, trained.result.steps) == ("finetune", 3, 3)
    meta = bench.context.artifacts.get(trained.artifact).meta
    assert meta == {"role": "arm", "job_id": job.id, "recipe": "finetune", "seed": 3}
    metrics = [event for event in grip.events if event.type == "metrics"]
    assert metrics[-1].data is not None
    assert metrics[-1].data["arm"] == "finetune"
    assert 0 <= metrics[-1].data["full_valid_mean_token_accuracy"] <= 1


def test_a_training_that_was_stopped_goes_on_from_its_last_checkpoint(bench: Any) -> None:
    spec = {"recipe": "finetune", "hyperparameters": {"max_steps": 400}}
    job = bench.work(bench.submit(spec=spec), until="train")
    item = first_item(bench, job)
    with pytest.raises(InterruptedError):
        STAGES["train"].run(bench.context, job, item, Grip(stop_at=200))
    assert list((bench.context.settings.work / item.id).glob("checkpoints/checkpoint-*"))
    again = Grip()
    trained: Any = STAGES["train"].run(bench.context, job, item, again)
    assert again.steps[0][0] > 50
    assert trained.result.steps == 400
