"""The trainer's own behaviour: averaging, the choice of the best step, and what ends a training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from understudy.errors import ModelError
from understudy.models.load import load_adapter
from understudy.testing import tiny_classifier
from understudy.training.collate import Collator
from understudy.training.objective import Objective
from understudy.training.plan import UNREACHED, Plan
from understudy.training.recipes import parse_recipe
from understudy.training.trainer import DistillationTrainer, Stopwatch, training_arguments
from understudy.training.validation import Validation
from understudy.training.views import Row, build_instances

PLAN = Plan(steps=6, batch_size=4, learning_rate=1e-2, schedule="cosine", warmup_steps=1, weight_decay=0.01)
MakeTrainer = Callable[..., DistillationTrainer]


@pytest.fixture
def make_trainer(tmp_path: Path, rows: list[Any], monkeypatch: pytest.MonkeyPatch) -> MakeTrainer:
    """A trainer of ten rows in batches of four, so that the last step of an epoch has two; no dropout, float64."""

    def make(
        micro: int = 4, scores: Iterator[Validation] | None = None, objective: Any = None, plan: Plan = PLAN
    ) -> DistillationTrainer:
        monkeypatch.setattr("understudy.training.trainer.micro_batch", lambda *_: micro)
        folder = tiny_classifier(tmp_path / "model", labels=("bad", "good"), pooling="gate")
        adapter = load_adapter(str(folder), device="cpu")
        recipe = parse_recipe("rationale_gate+logit_kd")
        chosen = [Row(row.example, row.attribution) for row in rows[:10]]
        for module in adapter.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return DistillationTrainer(
            model=adapter.model.double().requires_grad_(True),
            args=training_arguments(plan, tmp_path / f"out-{micro}", seed=0, parameters=1000),
            train_dataset=build_instances(adapter, chosen, recipe, seed=0, top_k=2),
            eval_dataset=chosen,
            data_collator=Collator("classifier", 0),
            objective=objective or Objective(recipe, "classifier", 1.0),
            validate=lambda: next(scores) if scores else Validation(0.5, 1.0),
            emit=lambda _: None,
            stopwatch=Stopwatch(),
        )

    return make


def test_gradient_accumulation_changes_nothing(make_trainer: MakeTrainer) -> None:
    weights = []
    for micro in (4, 2, 1):
        trainer = make_trainer(micro)
        assert trainer.args.gradient_accumulation_steps * micro == PLAN.batch_size
        trainer.train()
        weights.append(trainer.model.state_dict())
    for other in weights[1:]:
        for name, value in weights[0].items():
            assert_close(other[name], value, rtol=1e-7, atol=1e-9)


def test_the_logged_loss_is_the_mean_over_examples(make_trainer: MakeTrainer) -> None:
    seen: list[torch.Tensor] = []

    class Recording(Objective):
        def __call__(self, model: Any, batch: Any) -> torch.Tensor:
            losses = super().__call__(model, batch)
            seen.append(losses.detach())
            return losses

    trainer = make_trainer(2, objective=Recording(parse_recipe("rationale_gate+logit_kd"), "classifier", 1.0))
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # An epoch of ten rows: two steps of two micro-batches, and one step of the two rows that are left.
    assert logged[0] == pytest.approx(torch.cat(seen[:2]).mean().item())
    assert logged[2] == pytest.approx(seen[4].mean().item())


def test_the_best_step_is_the_most_accurate_and_then_the_surest(make_trainer: MakeTrainer) -> None:
    scores = iter(
        [
            Validation(0.50, 0.1),
            Validation(0.75, 0.9),
            Validation(0.75, 0.4),
            Validation(0.75, 0.6),
            Validation(0.70, 0.0),
            Validation(0.74, 0.2),
        ]
    )
    trainer = make_trainer(scores=scores)
    kept: dict[int, torch.Tensor] = {}
    save = trainer._save_checkpoint

    def remember(*args: Any) -> None:
        kept[trainer.state.global_step] = trainer.model.head.weight.detach().clone()
        save(*args)

    trainer._save_checkpoint = remember
    trainer.train()
    assert trainer.state.best_global_step == 3
    assert_close(trainer.model.head.weight.detach(), kept[3])


@pytest.mark.parametrize(
    ("better", "worse"), [((0.501, 9.0), (0.5, 0.0)), ((0.5, 0.1), (0.5, 0.1001)), ((0, 1), (0, 1e9))]
)
def test_a_row_more_outranks_any_loss(better: tuple[float, float], worse: tuple[float, float]) -> None:
    assert Validation(*better).rank > Validation(*worse).rank


def test_a_loss_that_is_not_finite_ends_the_training(make_trainer: MakeTrainer) -> None:
    def broken(model: Any, batch: Any) -> torch.Tensor:
        return model(**batch["label"]["inputs"]).logits.sum(-1) * torch.nan

    with pytest.raises(ModelError, match="nan at step 1") as caught:
        make_trainer(objective=broken).train()
    assert caught.value.param == "hyperparameters.learning_rate_multiplier"


def test_validation_sees_the_model_without_dropout_and_training_goes_on_with_it(make_trainer: MakeTrainer) -> None:
    modes: list[bool] = []
    trainer = make_trainer()
    trainer.validate = lambda: modes.append(trainer.model.training) or Validation(0.5, 1.0)  # type: ignore[func-returns-value]
    trainer.model.train()
    trainer.evaluate()
    assert modes == [False]
    assert trainer.model.training


def test_nothing_is_printed_and_nothing_is_reported(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer()
    trainer.train()
    assert capsys.readouterr().out == ""
    names = {type(callback).__name__ for callback in trainer.callback_handler.callbacks}
    assert names == {"DefaultFlowCallback", "Stopwatch", "_Events", "_Leave"}


class Clock:
    """Seconds that only training and validating take: one each step, a hundred each validation."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def by_clock(make_trainer: MakeTrainer) -> Callable[..., DistillationTrainer]:
    """A trainer of so many seconds, whose steps take one each and whose validations a hundred."""

    def make(whole: float, clock: Clock) -> DistillationTrainer:
        class Slow(Objective):
            def __call__(self, model: Any, batch: Any) -> torch.Tensor:
                clock.now += 1
                return super().__call__(model, batch)

        def validated() -> Validation:
            clock.now += 100
            return Validation(0.5, 1.0)

        plan = replace(PLAN, steps=UNREACHED, warmup_steps=1_000_000, seconds=whole)
        trainer = make_trainer(objective=Slow(parse_recipe("rationale_gate+logit_kd"), "classifier", 1.0), plan=plan)
        trainer.validate = validated
        trainer.rate = plan.rate
        trainer.stopwatch.whole, trainer.stopwatch.clock = whole, clock
        return trainer

    return make


def rates(trainer: DistillationTrainer) -> list[float]:
    return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]


def test_at_an_even_pace_a_training_by_the_clock_is_one_of_as_many_steps(
    make_trainer: MakeTrainer, by_clock: Callable[..., DistillationTrainer]
) -> None:
    """Its learning rate follows the time, its validations are no part of that and come evenly."""
    timed = by_clock(20.0, Clock())
    timed.train()
    assert timed.state.global_step == 20
    assert [entry["step"] for entry in timed.state.log_history if "eval_rank" in entry] == list(range(2, 21, 2))
    assert timed.stopwatch.seconds == 20 + 10 * 100
    stepped = make_trainer(plan=replace(PLAN, steps=20, warmup_steps=2))
    stepped.train()
    assert rates(timed) == pytest.approx(rates(stepped))
    for name, value in stepped.model.state_dict().items():
        assert_close(timed.model.state_dict()[name], value, rtol=1e-7, atol=1e-9)


def test_a_training_by_the_clock_that_is_interrupted_has_what_is_left_of_its_time(
    by_clock: Callable[..., DistillationTrainer],
) -> None:
    clock = Clock()
    first = by_clock(20.0, clock)
    first.stopwatch.stop_after = 7  # where a process would be ended; the step is kept
    first.train()
    clock.now += 1e6  # nobody trained meanwhile
    state = json.loads((Path(first.args.output_dir) / "checkpoint-7" / "trainer_state.json").read_text())
    kept = state["stateful_callbacks"]["Stopwatch"]["attributes"]
    assert (kept["seconds"] - kept["aside"], kept["tokens"] > 0) == (7.0, True)
    second = by_clock(20.0, clock)
    second.train(resume_from_checkpoint=str(Path(first.args.output_dir) / "checkpoint-7"))
    assert second.state.global_step == 20
    assert rates(second) == pytest.approx([1e-2 * PLAN.rate(step / 20) for step in range(20)])
