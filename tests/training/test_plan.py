"""What `auto` becomes, and that it never depends on the recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import get_scheduler

from understudy.errors import InvalidRequest
from understudy.schemas import Hyperparameters
from understudy.training.plan import VALIDATIONS, Plan, Shape, micro_batch, resolve


def plan(rows: int = 1000, asked: dict[str, Any] | None = None, **changes: Any) -> Plan:
    given = {"architecture": "classifier", "parameters": 1_000_000, "width": 64, "layers": 1, "scratch": True}
    return resolve(Hyperparameters(**(asked or {})), rows=rows, shape=Shape(**(given | changes)))


def test_asked_epochs_and_batch_are_taken_at_their_word() -> None:
    assert plan(100, {"n_epochs": 3, "batch_size": 8}).steps == 39  # 13 steps an epoch, the last of 4 rows
    assert plan(100, {"n_epochs": 0.5, "batch_size": 10}).steps == 5


def test_max_steps_is_a_bound_and_no_target() -> None:
    assert plan(100, {"n_epochs": 1, "batch_size": 10, "max_steps": 4}).steps == 4
    assert plan(100, {"n_epochs": 1, "batch_size": 10, "max_steps": 400}).steps == 10
    assert plan(100, {"max_steps": 1}).steps == 1


@pytest.mark.parametrize("scratch", [True, False])
def test_the_rate_by_share_is_that_of_transformers_schedule_by_steps(scratch: bool) -> None:
    chosen = plan(asked={"max_steps": 50, "n_epochs": 9}, scratch=scratch)
    weight = torch.nn.Parameter(torch.zeros(1))
    schedule = get_scheduler(
        chosen.schedule,
        torch.optim.SGD([weight], lr=1.0),
        num_warmup_steps=chosen.warmup_steps,
        num_training_steps=chosen.steps,
    )
    for step in range(chosen.steps):
        assert chosen.rate(step / chosen.steps) == pytest.approx(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    assert chosen.rate(1.0) == chosen.rate(1.5) == pytest.approx(0)


def test_a_training_has_a_time_or_a_number_of_steps() -> None:
    assert plan(asked={"seconds": 30}).seconds == 30
    for other in ({"max_steps": 5}, {"n_epochs": 2}):
        with pytest.raises(ValidationError, match="in place of n_epochs and max_steps"):
            plan(asked={"seconds": 30, **other})


def test_a_batch_is_never_larger_than_the_data() -> None:
    assert plan(3, {"batch_size": 64}).batch_size == 3


def test_the_multiplier_multiplies_what_auto_would_be() -> None:
    assert plan(asked={"learning_rate_multiplier": 0.5}).learning_rate == plan().learning_rate / 2


def test_pretrained_weights_are_moved_more_gently_than_random_ones() -> None:
    for architecture in ("classifier", "seq2seq", "causal"):
        pretrained = plan(architecture=architecture, scratch=False, parameters=60_000_000)
        assert pretrained.learning_rate < plan(architecture=architecture).learning_rate
        assert pretrained.schedule == "linear"
        bigger = plan(architecture=architecture, scratch=False, parameters=3_000_000_000)
        assert bigger.learning_rate < pretrained.learning_rate


def test_adapters_learn_faster_than_all_weights_and_never_above_a_bound() -> None:
    for scratch, parameters in [(False, 60_000_000), (False, 3_000_000_000), (True, 1_000_000)]:
        for architecture in ("classifier", "seq2seq", "causal"):
            given: dict[str, Any] = {"architecture": architecture, "scratch": scratch, "parameters": parameters}
            full, adapters = plan(**given), plan(**given, lora=True)
            assert full.learning_rate <= adapters.learning_rate <= max(1e-3, full.learning_rate)
    assert plan(scratch=False, lora=True).learning_rate == pytest.approx(10 * plan(scratch=False).learning_rate)


def test_patience_and_precision_are_taken_over() -> None:
    asked = plan(asked={"patience": 3, "precision": "bfloat16"})
    assert (asked.patience, asked.precision) == (3, "bfloat16")
    assert (plan().patience, plan().precision) == (None, "auto")


def test_a_wider_and_deeper_scratch_model_learns_more_slowly() -> None:
    rates = [plan(width=width, layers=layers).learning_rate for width, layers in [(8, 1), (64, 1), (128, 2), (768, 12)]]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(3e-3)
    assert rates[2] == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize("scratch", [True, False])
def test_few_rows_are_seen_more_often(scratch: bool) -> None:
    few, many = plan(100, scratch=scratch), plan(100_000, scratch=scratch)
    assert few.steps >= 200, "three passes over a hundred rows are no training"
    assert few.steps * few.batch_size / 100 > many.steps * many.batch_size / 100_000
    assert many.steps * many.batch_size >= 100_000, "every row is seen at least once"


@pytest.mark.parametrize("steps", [1, 3, 10, 11, 199, 3000])
def test_a_training_is_validated_about_ten_times(steps: int) -> None:
    every = plan(10_000, {"n_epochs": 1000, "max_steps": steps}).validate_every
    looks = len({*range(every, steps + 1, every), steps})
    assert min(steps, VALIDATIONS // 2) <= looks <= VALIDATIONS


def test_a_large_model_takes_the_same_batch_in_smaller_bites() -> None:
    assert micro_batch(16, 1_000_000) == 16
    assert micro_batch(16, 3_000_000_000) == 2
    assert micro_batch(15, 1_000_000_000) == 5
    assert micro_batch(7, 3_000_000_000) == 1
    assert micro_batch(16, 1_000_000, devices=4) == 4


def test_a_batch_that_devices_cannot_share_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="multiple of 3") as caught:
        micro_batch(16, 1_000_000, devices=3)
    assert caught.value.param == "hyperparameters.batch_size"
