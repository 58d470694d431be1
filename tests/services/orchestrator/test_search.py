"""The phase search: which candidates go on after a short training, which jobs have one, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
from stand.server import Server

from services.orchestrator.budget import seconds_for_a_run, seconds_for_a_try
from services.orchestrator.flow import Next
from services.orchestrator.jobs import Arm, Job, Rows
from services.orchestrator.phases import search
from services.orchestrator.phases.search import Tried
from services.orchestrator.pipeline import STAGES, finish
from services.orchestrator.steps import (
    KEEP,
    LEAST_STEPS,
    SEARCH_FROM,
    SHARE,
    going_on,
    pays,
    search_rounds,
    short_steps,
)
from services.orchestrator.wire import job_object
from understudy.training.recipes import RECIPES

CONTROL = "random_rationale"
NAMES = ("finetune", "saliency", "rationale_input", "rationale_gate", "logit_kd", "saliency+logit_kd")


def arms_of(*names: str) -> tuple[Arm, ...]:
    """Candidates, and the control of each that is about the teacher's words."""
    arms = []
    for name in names:
        arms.append(Arm(name=name, candidate=True))
        if name not in ("finetune", "logit_kd"):
            arms.append(Arm(name=f"{name}+{CONTROL}", candidate=False, control_of=name))
    return tuple(arms)


def ready(bench: Any, names: tuple[str, ...] = NAMES, **spec: Any) -> Job:
    """A job whose rows are annotated and whose search may begin."""
    job: Job = bench.job(spec={"recipe": "auto", **spec}, phase="search")
    rows = Rows(train=160, validation=10, test=20, rejected=0)
    arms = arms_of(*names)
    return job.with_facts(arms=arms, rows=rows, annotated=160, searches=pays(job, arms), began_at=0.0)


def tried(name: str, accuracy: float, loss: float = 1.0) -> Tried:
    return Tried(recipe=name, validation_accuracy=accuracy, validation_loss=loss, steps=50)


@pytest.mark.parametrize(
    ("spec", "names", "searches"),
    [
        ({}, NAMES, True),
        ({"recipe": ("auto", "logit_kd")}, NAMES, True),
        ({}, NAMES[: SEARCH_FROM - 1], False),
        ({"search": "off"}, NAMES, False),
        ({"recipe": NAMES}, NAMES, False),
    ],
)
def test_only_auto_with_many_candidates_is_searched(
    bench: Any, spec: dict[str, Any], names: tuple[str, ...], searches: bool
) -> None:
    job = ready(bench, names, **spec)
    assert ("search" in job.phases) == searches
    if searches:
        assert job.phases[job.phases.index("search") + 1] == "train"
        assert job.phases[job.phases.index("search") - 1] == "annotate"


def test_before_its_arms_are_known_a_job_shows_the_search_that_it_may_have(bench: Any) -> None:
    assert "search" in bench.job(spec={"recipe": "auto"}).phases
    assert "search" not in bench.job(spec={"recipe": "auto", "search": "off"}).phases
    assert "search" not in bench.job(spec={"recipe": "saliency"}).phases


def test_every_candidate_is_tried_once_with_the_first_seed_and_a_share_of_the_steps_and_no_control(bench: Any) -> None:
    items = search.plan(ready(bench, seeds=(7, 8), hyperparameters={"n_epochs": 80}))
    assert [item.payload["recipe"] for item in items] == list(NAMES)
    assert {item.payload["seed"] for item in items} == {7}
    assert {item.payload["max_steps"] for item in items} == {round(SHARE * 80 * 10)}  # ten batches an epoch


@pytest.mark.parametrize(("steps", "short"), [(4000, 1000), (400, LEAST_STEPS), (200, LEAST_STEPS), (20, 20)])
def test_a_short_training_is_long_enough_to_say_something_and_never_longer_than_the_whole(
    steps: int, short: int
) -> None:
    assert short_steps(steps) == short


@pytest.mark.parametrize(
    ("others", "steps", "rounds"),
    [
        (6, 4000, [(7, 1000)]),
        (11, 4000, [(12, 1000)]),  # in two rounds it would be as many steps
        (13, 4000, [(14, 500), (6, 1000)]),
        (26, 4000, [(27, 250), (12, 500), (6, 1000)]),
        (30, 4000, [(31, 250), (12, 500), (6, 1000)]),  # an earlier round would be too short to say anything
        (30, 1200, [(31, 150), (6, 300)]),
        (30, 400, [(31, 150)]),
    ],
)
def test_each_round_halves_the_candidates_and_doubles_the_steps(
    bench: Any, others: int, steps: int, rounds: list[tuple[int, int]]
) -> None:
    arms = [Arm(name=name, candidate=True) for name in candidates(others)]
    assert [(one.runs, one.steps) for one in search_rounds(ready(bench), arms, steps)] == rounds
    assert all(one.steps >= LEAST_STEPS for one in search_rounds(ready(bench), arms, steps))


def candidates(others: int) -> list[str]:
    """`finetune` and so many more."""
    treated = [recipe.name for recipe in RECIPES.values() if not recipe.variant]
    assert treated[0] == "finetune"
    return treated[: others + 1]


def test_a_job_goes_through_all_rounds_and_trains_the_best_of_the_last(bench: Any) -> None:
    """Every second candidate does better than the one before it; on longer trainings it is the other way round."""
    names = candidates(26)
    job = ready(bench, tuple(names), hyperparameters={"n_epochs": 400})  # ten batches an epoch: 1000, 500 and 250 steps
    job = job.to("queued")
    bench.context.flow.submit(job, Next("train", search.plan(job)))
    tried_in: list[set[str]] = []
    while bench.context.jobs.get(job.id).phase == "search":
        waiting = [item for item in bench.context.flow.items(job.id, "search") if item.state == "pending"]
        tried_in.append({item.payload["recipe"] for item in waiting})
        for item in waiting:
            name, number = item.payload["recipe"], item.payload["round"]
            accuracy = names.index(name) / 100 * (1 if number == 1 else -1) + 0.5
            found = tried(name, accuracy).model_copy(update={"round": number, "steps": item.payload["max_steps"]})
            held = bench.context.leases.claim(item.id, "a")
            bench.context.leases.complete(held, found.model_dump(mode="json"), 1)
        finish(bench.context, job.id, "search")
    assert tried_in == [set(names), set(names[15:]), set(names[15:21])]
    after = bench.context.jobs.get(job.id)
    assert after.phase == "train"
    assert [arm.name for arm in after.facts.arms if arm.candidate] == names[:1] + names[15:18]
    found = after.facts.searched
    assert [(one.round, one.steps) for one in found] == [(1, 250)] * 27 + [(2, 500)] * 12 + [(3, 1000)] * 6
    assert [one.recipe for one in found[-6:]] == names[15:21]
    assert [one.kept for one in found[-6:]] == [True] * 3 + [False] * 3
    assert {one.recipe for one in found if one.round == 1 and not one.kept} == set(names[1:15])
    assert {one.recipe for one in found if one.round == 2 and not one.kept} == set(names[21:])
    told = after.facts.findings[-1]
    assert f"of 27 candidates these are trained in full beside finetune: {names[15]} (35.0 %)" in told
    assert f"{names[1]} (51.0 %)" in told.partition("These are not:")[2]
    assert "Phase search goes on with another round" in bench.messages(job)


def test_a_step_may_take_as_long_in_each_round(bench: Any) -> None:
    names = tuple(candidates(26))
    job = ready(bench, names, budget={"seconds": 400}, hyperparameters={"n_epochs": 400})
    first = search.plan(job.model_copy(update={"phase_started_at": 0.0}))
    bound = first[0].payload["max_seconds"]
    results = [tried(name, 0.5).model_copy(update={"max_seconds": bound}) for name in names]
    second = search.again(job, results)
    assert {item.payload["max_seconds"] for item in second} == {2 * bound}
    assert 27 * bound + 12 * 2 * bound + 6 * 4 * bound == pytest.approx(0.25 * 400)


def test_trainings_that_have_a_time_are_tried_for_a_share_of_it_in_one_round(bench: Any) -> None:
    arms = arms_of(*candidates(20))
    job = ready(bench, hyperparameters={"seconds": 60.0})
    (one,) = search_rounds(job, arms, 10_000_000)
    assert one.runs == 21


def test_the_best_go_on_with_their_controls_and_what_was_tried_is_kept_best_first(bench: Any) -> None:
    accuracies = dict(zip(NAMES, (0.9, 0.2, 0.5, 0.6, 0.3, 0.4), strict=True))
    job = search.absorb(ready(bench), [tried(name, accuracy) for name, accuracy in accuracies.items()])
    going = ["finetune", "rationale_input", "rationale_gate", "saliency+logit_kd"]
    assert [arm.name for arm in job.facts.arms if arm.candidate] == going
    assert {arm.control_of for arm in job.facts.arms if not arm.candidate} == set(going[1:])
    assert [(one.recipe, one.kept) for one in job.facts.searched] == [
        ("finetune", True),
        ("rationale_gate", True),
        ("rationale_input", True),
        ("saliency+logit_kd", True),
        ("logit_kd", False),
        ("saliency", False),
    ]
    (told,) = job.facts.findings
    assert "rationale_gate (60.0 %), rationale_input (50.0 %), saliency+logit_kd (40.0 %). These are not:" in told
    assert "logit_kd (30.0 %), saliency (20.0 %)" in told.partition("These are not:")[2]


def test_equal_accuracy_is_decided_by_the_loss_and_equal_loss_by_the_plainer_recipe(bench: Any) -> None:
    names = ("finetune", "saliency+logit_kd", "saliency", "rationale_input", "logit_kd", "rationale_gate")
    losses = (1.0, 0.5, 0.5, 0.4, 0.5, 0.6)
    job = search.absorb(ready(bench, names), [tried(name, 0.5, loss) for name, loss in zip(names, losses, strict=True)])
    order = [one.recipe for one in job.facts.searched]
    assert order == ["rationale_input", "saliency", "logit_kd", "saliency+logit_kd", "rationale_gate", "finetune"]
    assert sum(one.kept for one in job.facts.searched) == KEEP + 1  # and finetune, the last


def test_what_was_asked_for_by_its_name_goes_on_however_it_did(bench: Any) -> None:
    job = ready(bench, recipe=("auto", f"logit_kd+saliency+{CONTROL}"))
    best_first = ["rationale_gate", "rationale_input", "logit_kd", "saliency", "saliency+logit_kd"]
    names = {arm.name for arm in going_on(job, job.facts.arms, best_first) if arm.candidate}
    assert names == {"finetune", "rationale_gate", "rationale_input", "logit_kd", "saliency+logit_kd"}


def test_a_search_takes_a_quarter_of_the_seconds_that_are_left(bench: Any) -> None:
    job = ready(bench, budget={"seconds": 100}).model_copy(update={"phase_started_at": 60.0})
    assert seconds_for_a_try(job, 4) == 0.25 * 40 / 4
    assert seconds_for_a_run(job, 4) == 10
    assert {item.payload["max_seconds"] for item in search.plan(job)} == {0.25 * 40 / len(NAMES)}
    assert seconds_for_a_try(ready(bench), 4) is None


def test_a_job_shows_what_its_search_found(bench: Any) -> None:
    job = search.absorb(ready(bench), [tried(name, 0.5) for name in NAMES])
    shown = job_object(job, {}).model_dump(mode="json")
    assert len(shown["searched"]) == len(NAMES)
    assert shown["searched"][0].keys() == {"recipe", "validation_accuracy", "steps", "kept", "round"}
    assert [phase["phase"] for phase in shown["phases"]][3] == "search"


def test_a_dry_run_counts_the_search_and_at_most_as_many_runs_as_may_follow(
    settings: Any, bench: Any, rows: Any, fork_server: None
) -> None:
    del bench, fork_server
    server = Server(settings.model_copy(update={"sweep_seconds": 60.0}))
    method = {"type": "distillation", "distillation": {"teacher": {"model": "teacher"}, "seeds": [0, 1]}}
    body = {"model": "scratch:bert-1x16", "method": method, "training_file": server.upload(rows(80)).json()["id"]}
    found = server.http.post("/v1/fine_tuning/jobs", params={"dry_run": "true"}, json=body).json()
    server.stop()
    candidates = sum(arm["candidate"] for arm in found["arms"])
    assert candidates >= SEARCH_FROM
    assert found["searches"]
    estimate = found["estimate"]
    assert (estimate["search_runs"], estimate["search_steps_per_run"]) == (
        candidates,
        short_steps(estimate["steps_per_run"]),
    )
    assert estimate["runs"] == 2 * (1 + 2 * KEEP)
    assert "search" in estimate["seconds_by_phase"]


@pytest.mark.usefixtures("fork_server")
def test_a_short_training_is_a_whole_one_of_fewer_steps_whose_model_is_not_kept(bench: Any) -> None:
    spec = {"recipe": "auto", "hyperparameters": {"max_steps": 200}, "seeds": [3]}
    job = bench.work(bench.submit(spec=spec), until="search")
    (item, *_) = bench.context.flow.items(job.id, "search")
    said: list[str] = []

    class Grip:
        def check(self) -> None: ...

        def progress(self, completed: int, total: int | None = None) -> None:
            said.append(f"{completed}/{total}")

        def event(self, event: Any) -> None:
            said.append(event.message)

    before = len(bench.context.artifacts.list("model"))
    found = Tried.model_validate(STAGES["search"].run(bench.context, job, item, Grip()))
    assert (found.recipe, found.steps) == ("finetune", LEAST_STEPS)
    assert f"{LEAST_STEPS}/{LEAST_STEPS}" in said
    assert said[-1].startswith("The search tried finetune: ")
    assert len(bench.context.artifacts.list("model")) == before
