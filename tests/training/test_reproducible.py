"""Interrupted anywhere, accumulated, early ended, in bfloat16, in two processes: what must stay the same does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from understudy.models.load import load_adapter
from understudy.schemas import Hyperparameters, TaskSpec
from understudy.testing import tiny_classifier, tiny_seq2seq
from understudy.training import run as training
from understudy.training.collate import Collator
from understudy.training.objective import Objective
from understudy.training.recipes import parse_recipe
from understudy.training.run import train
from understudy.training.spec import TrainEvent, TrainResult, TrainSpec
from understudy.training.trainer import DistillationTrainer
from understudy.training.validation import Validation
from understudy.training.views import Row, build_instances, label_template

MakeSpec = Callable[..., TrainSpec]
STEPS = 12  # of five rows, in epochs of five steps; validated and kept at every second one


class Interrupted(Exception):
    """What a test raises where a process would be ended."""


def quiet(event: TrainEvent) -> None:
    """Nobody listens."""


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def accumulating(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row at a time, five of which make a step."""
    monkeypatch.setattr("understudy.training.trainer.micro_batch", lambda *_: 1)


@pytest.mark.parametrize("recipe", ["finetune", "rationale_gate+logit_kd"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_a_training_that_is_interrupted_again_and_again_ends_bit_equal(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, accumulate: bool
) -> None:
    if accumulate:
        accumulating(monkeypatch)
    spec = make_spec(recipe, steps=STEPS)
    whole = train(spec, tmp_path / "whole", quiet)
    reached: list[int] = []
    for place in (1, 3, 6, 9, STEPS):  # before the first checkpoint, between two, inside each epoch, at the last step

        def emit(event: TrainEvent, place: int = place) -> None:
            if event.step >= place:
                reached.append(event.step)
                raise Interrupted

        with pytest.raises(Interrupted):
            train(spec, tmp_path / "cut", emit)
    assert reached == [1, 3, 6, 9, STEPS]
    assert train(spec, tmp_path / "cut", quiet).model_copy(update={"model": whole.model, "seconds": 0.0}) == (
        whole.model_copy(update={"seconds": 0.0})
    )
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"stop_after": 7},
        {"hyperparameters": Hyperparameters(n_epochs=1000, max_steps=STEPS, batch_size=5, patience=2)},
    ],
    ids=["to its last step", "at a step", "out of patience"],
)
def test_a_training_that_had_ended_when_it_was_interrupted_is_not_trained_on(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    spec = make_spec("rationale_gate", **{"steps": STEPS} | given)
    monkeypatch.setattr(training, "validate", Scores(0.5, 0.7, 0.6))
    whole = train(spec, tmp_path / "whole", quiet)
    monkeypatch.setattr(training, "validate", Scores(0.5, 0.7, 0.6))

    def full_disk(*_: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(training, "save", full_disk)
        with pytest.raises(Interrupted):
            train(spec, tmp_path / "cut", quiet)
    again: list[int] = []
    result = train(spec, tmp_path / "cut", lambda event: again.append(event.step))
    assert again == []
    assert (result.steps, result.best_step, result.tokens) == (whole.steps, whole.best_step, whole.tokens)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


class Scores:
    """Answers a list of accuracies, one a validation, and the last for ever."""

    def __init__(self, *accuracies: float) -> None:
        self.left = list(accuracies)

    def __call__(self, *_: Any) -> Validation:
        return Validation(self.left.pop(0) if len(self.left) > 1 else self.left[0], 1.0)


def patient(make_spec: MakeSpec, patience: int | None) -> TrainSpec:
    given = Hyperparameters(n_epochs=1000, max_steps=40, batch_size=5, patience=patience)
    return make_spec(hyperparameters=given)


def test_patience_ends_a_training_and_the_best_step_is_kept(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "validate", Scores(0.5, 0.7, 0.6, 0.8, 0.7, 0.7, 0.9))
    result = train(patient(make_spec, 2), tmp_path / "out", quiet)  # a look every four steps
    assert (result.steps, result.best_step, result.planned_steps) == (24, 16, 40)
    assert result.validation_accuracy == 0.8


def test_without_patience_a_training_goes_to_its_end(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "validate", Scores(0.7, 0.6))
    assert train(patient(make_spec, None), tmp_path / "out", quiet).steps == 40


def test_an_interruption_does_not_give_new_patience(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = patient(make_spec, 3)
    monkeypatch.setattr(training, "validate", Scores(0.7, 0.6))
    whole = train(spec, tmp_path / "whole", quiet)
    assert whole.steps == 16

    def emit(event: TrainEvent) -> None:
        if event.step == 14:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(spec, tmp_path / "cut", emit)
    monkeypatch.setattr(training, "validate", Scores(0.6))
    assert train(spec, tmp_path / "cut", quiet).steps == 16
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_stop_after_a_step_is_what_a_limit_of_time_at_that_step_is(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a report's arm whose time was up can be trained again on a machine of another speed."""
    clock = iter(range(0, 10_000))
    with monkeypatch.context() as patched:
        patched.setattr("understudy.training.trainer.time.monotonic", lambda: float(next(clock)))
        timed = train(make_spec(steps=20, max_seconds=12.0), tmp_path / "timed", quiet)
    assert 1 < timed.steps < 20
    counted = train(make_spec(steps=20, stop_after=timed.steps), tmp_path / "counted", quiet)
    assert (counted.steps, counted.best_step) == (timed.steps, timed.best_step)
    assert weights(tmp_path / "timed") == weights(tmp_path / "counted")


def test_bfloat16_rounds_products_and_keeps_float32_weights(make_spec: MakeSpec, tmp_path: Path) -> None:
    def trained(precision: str) -> tuple[Any, bytes]:
        given = Hyperparameters(n_epochs=1000, max_steps=6, batch_size=5, precision=precision)  # type: ignore[arg-type]
        result = train(make_spec("rationale_gate", hyperparameters=given), tmp_path / precision, quiet)
        return result, weights(tmp_path / precision)

    (auto, same), (plain, also), (rounded, other) = map(trained, ("auto", "float32", "bfloat16"))
    assert same == also, "auto is float32 on a processor"
    assert other != also
    assert rounded.validation_loss == pytest.approx(plain.validation_loss, rel=0.05)
    kept = load_adapter(str(rounded.model), device="cpu").model
    assert {parameter.dtype for parameter in kept.parameters()} == {torch.float32}
    assert auto.environment == plain.environment


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_all_passes_of_a_step_share_their_rounded_weights(
    precision: Any, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autocast keeps a weight's copy until the outermost of its contexts ends."""
    found: list[bool] = []
    losses = Objective.__call__

    def spied(self: Objective, model: Any, batch: Any) -> Any:
        found.append(torch.is_autocast_enabled("cpu"))
        return losses(self, model, batch)

    monkeypatch.setattr(Objective, "__call__", spied)
    given = Hyperparameters(n_epochs=1000, max_steps=2, batch_size=5, precision=precision)
    train(make_spec("rationale_input", hyperparameters=given), tmp_path / "out", quiet)
    assert set(found) == {precision == "bfloat16"}


# --- what a step's loss and gradient do not depend on ----------------------------------------------------------------


TASK = TaskSpec(kind="classification", labels=("bad", "good"))
CASES = [
    ("finetune", "classifier"),
    ("rationale_gate+logit_kd", "classifier"),
    ("attribution_alignment", "classifier"),
    ("saliency+logit_kd", "seq2seq"),
]


@pytest.fixture(params=CASES, ids=[f"{recipe} for a {kind}" for recipe, kind in CASES])
def step(request: pytest.FixtureRequest, tmp_path: Path, rows: list[Any]) -> Callable[..., tuple[float, list[Any]]]:
    """`step([[0, 1], [2]])`: loss and gradients of a step over micro-batches of rows, as the trainer computes them."""
    recipe_name, kind = request.param
    recipe = parse_recipe(recipe_name)
    if kind == "classifier":
        pooling: Any = "gate" if "gate" in recipe_name else "mean"
        folder = tiny_classifier(tmp_path / "model", labels=TASK.labels, pooling=pooling)
    else:
        folder = tiny_seq2seq(tmp_path / "model")
    adapter = load_adapter(str(folder), task=label_template(recipe, TASK, kind), device="cpu")
    model = adapter.model.double().requires_grad_(True).eval()  # without dropout
    instances = build_instances(adapter, [Row(r.example, r.attribution) for r in rows], recipe, seed=0, top_k=2)
    collate = Collator.of(adapter)
    objective = Objective(recipe, adapter.architecture, 0.5)

    def run(micro: list[list[int]]) -> tuple[float, list[Any]]:
        model.zero_grad()
        count = sum(map(len, micro))
        total = 0.0
        for part in micro:
            loss = DistillationTrainer.compute_loss(
                _Alone(objective), model, collate([instances[place] for place in part]), num_items_in_batch=count
            )
            loss.backward()
            total += loss.item()
        return total, [p.grad.clone() if p.grad is not None else None for p in model.parameters()]

    return run


class _Alone:
    """What `compute_loss` needs of a trainer: its objective, and that one process computes."""

    class accelerator:
        num_processes = 1

    def __init__(self, objective: Objective) -> None:
        self.objective = objective


@pytest.mark.parametrize(
    "micro",
    [
        [[0, 1, 2], [3, 4, 5]],
        [[0], [1], [2], [3], [4], [5]],
        [[0, 1, 2, 3, 4], [5]],
        [[5, 3, 1, 4, 2, 0]],
        [[4], [0, 5, 2], [3, 1]],
    ],
    ids=["halves", "one by one", "uneven", "another order", "both"],
)
def test_accumulation_size_padding_and_order_change_neither_loss_nor_gradient(
    step: Callable[..., tuple[float, list[Any]]], micro: list[list[int]]
) -> None:
    # The rows have 3 to 18 words, so that other company means other padding.
    loss, gradients = step([[0, 1, 2, 3, 4, 5]])
    other, others = step(micro)
    assert other == pytest.approx(loss, rel=1e-10)
    assert any(one is not None and one.abs().max() > 1e-6 for one in gradients)
    for before, after in zip(gradients, others, strict=True):
        assert (before is None) == (after is None)
        if before is not None:
            assert_close(after, before, rtol=1e-10, atol=1e-10)


# --- several processes -----------------------------------------------------------------------------------------------


SCRIPT = """
import sys
from pathlib import Path
from torch import nn
from understudy.training import run
from understudy.training.spec import TrainSpec

spec, out = TrainSpec.model_validate_json(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
create = run.create

def without_dropout(*args, **more):
    model, tokenizer = create(*args, **more)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model, tokenizer

run.create = without_dropout
events = []
run.train(spec, out, events.append)
if events:
    Path(sys.argv[2], "events.jsonl").write_text("".join(event.model_dump_json() + "\\n" for event in events))
"""


def without_dropout(create: Callable[..., Any]) -> Callable[..., Any]:
    """Masks come from each process's own random numbers; without them all processes compute one function."""

    def made(*args: Any, **more: Any) -> Any:
        model, tokenizer = create(*args, **more)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return model, tokenizer

    return made


def launched(spec: TrainSpec, folder: Path, *, processes: int) -> list[dict[str, Any]]:
    """Train in so many processes, and return the losses that were told."""
    folder.mkdir()
    (folder / "spec-file.json").write_text(spec.model_dump_json())
    (folder / "script.py").write_text(SCRIPT)
    # What `accelerate launch --multi_gpu` starts as well; for processors it knows MPI only.
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*launcher, str(folder / "script.py"), str(folder / "spec-file.json"), str(folder / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in (folder / "out" / "events.jsonl").read_text().splitlines()]


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch cannot let processors work together")
def test_two_processes_take_the_same_steps_as_one(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Hyperparameters(n_epochs=1000, max_steps=8, batch_size=8)  # 24 rows: whole batches only
    spec = make_spec("rationale_gate+logit_kd", hyperparameters=given)
    together = launched(spec, tmp_path / "two", processes=2)
    monkeypatch.setattr(training, "create", without_dropout(training.create))
    told: list[TrainEvent] = []
    alone = train(spec, tmp_path / "one", told.append)
    assert [event["step"] for event in together] == [event.step for event in told], "only the first process tells"
    losses = [event.loss for event in told if event.loss is not None]
    assert len(losses) == 8
    assert [event["loss"] for event in together if event["loss"] is not None] == pytest.approx(losses, rel=1e-4)
    result = TrainResult.model_validate_json((tmp_path / "two" / "out" / "result.json").read_bytes())
    assert result.validation_loss == pytest.approx(alone.validation_loss, rel=1e-3)
    assert (result.steps, result.best_step, result.tokens) == (alone.steps, alone.best_step, alone.tokens)
    assert result.environment is not None
    assert result.environment.processes == 2
    assert (tmp_path / "two" / "out" / "model" / "model.safetensors").is_file()
