from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from understudy.errors import InvalidRequest
from understudy.models.base import Adapter
from understudy.models.load import ModelCard, adapt, create, load_adapter, save
from understudy.models.lora import merge, trained_parameters, wrap
from understudy.schemas import Example, LoraSpec, TaskSpec
from understudy.testing import LABELS, SENTENCES, TARGETS
from understudy.training.collate import Collator
from understudy.training.objective import Objective
from understudy.training.plan import Plan
from understudy.training.recipes import parse_recipe
from understudy.training.trainer import DistillationTrainer, Stopwatch, last_checkpoint, training_arguments
from understudy.training.validation import Validation, validate
from understudy.training.views import Row, build_instances

CLOSED = TaskSpec(kind="classification", labels=LABELS)
SPEC = LoraSpec(rank=2, alpha=8.0, dropout=0.0)
FAMILIES = {
    "seq2seq": ("scratch:t5-2x16", "mean"),
    "seq2seq-gate": ("scratch:t5-2x16", "gate"),
    "causal": ("scratch:gpt2-2x16", "mean"),
    "classifier": ("scratch:bert-2x16", "mean"),
    "classifier-gate": ("scratch:bert-2x16", "gate"),
}
ROWS = [Row(Example(id=str(i), input=text, output=TARGETS[i])) for i, text in enumerate(SENTENCES)]
PLAN = Plan(steps=4, batch_size=4, learning_rate=3e-2, schedule="linear", warmup_steps=1, weight_decay=0.01)


def student(name: str, task: TaskSpec = CLOSED) -> Adapter:
    ref, pooling = FAMILIES[name]
    made = create(ref, store=None, task=task, texts=SENTENCES, targets=TARGETS, seed=0, pooling=pooling)  # type: ignore[arg-type]
    adapter = adapt(*made, task)
    adapter.model.requires_grad_(True)
    return adapter


def likelihoods(adapter: Adapter) -> torch.Tensor:
    adapter.model.eval()
    return torch.tensor(adapter.log_likelihoods(SENTENCES, [LABELS] * len(SENTENCES)))


def trainer_of(adapter: Adapter, out: Path, plan: Plan = PLAN, stop_after: int | None = None) -> DistillationTrainer:
    """The parts that a training stage is made of, around a student with adapters."""
    recipe = parse_recipe("finetune")
    return DistillationTrainer(
        model=adapter.model,
        args=training_arguments(plan, out, seed=0, parameters=1000),
        train_dataset=build_instances(adapter, ROWS, recipe, seed=0, top_k=2),
        eval_dataset=ROWS,
        data_collator=Collator.of(adapter),
        objective=Objective(recipe, adapter.architecture, 1.0),
        validate=lambda: validate(adapter, [row.example for row in ROWS]),
        emit=lambda _: None,
        stopwatch=Stopwatch(None, stop_after),
    )


def trained(name: str, out: Path, **changes: Any) -> Adapter:
    adapter = student(name)
    wrap(adapter.model, LoraSpec(**(SPEC.model_dump() | changes)), seed=0)
    trainer_of(adapter, out).train()
    return adapter


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_change_nothing_until_they_are_trained(name: str) -> None:
    adapter = student(name)
    kind, before = type(adapter.model), likelihoods(adapter)
    assert wrap(adapter.model, SPEC, seed=0) is adapter.model
    assert type(adapter.model) is kind
    assert torch.equal(likelihoods(adapter), before)


@pytest.mark.parametrize("name", FAMILIES)
def test_only_adapters_and_fresh_parts_move(name: str, tmp_path: Path) -> None:
    adapter = student(name)
    before = {key: value.clone() for key, value in adapter.model.state_dict().items()}
    whole = trained_parameters(adapter.model)
    wrap(adapter.model, SPEC, seed=0)
    free = {key for key, parameter in adapter.model.named_parameters() if parameter.requires_grad}
    fresh = {key for key in free if "lora_" not in key}
    assert {key.split(".")[-2] for key in fresh} == {
        "seq2seq": set(),
        "seq2seq-gate": {"gate"},
        "causal": set(),
        "classifier": {"head"},
        "classifier-gate": {"head", "gate"},
    }[name]
    assert trained_parameters(adapter.model) < whole / 2
    begun = {key: value.clone() for key, value in adapter.model.state_dict().items()}
    trainer = trainer_of(adapter, tmp_path)
    better = count()
    trainer.validate = lambda: Validation(next(better) / 10, 1.0)  # the last step is kept: the first has a rate of 0
    trainer.train()
    after = adapter.model.state_dict()
    for key, value in after.items():
        if key in free:
            assert not torch.equal(value, begun[key]), key
        else:
            assert torch.equal(value, before[key.replace(".base_layer", "")]), key


@pytest.mark.parametrize("name", ["seq2seq", "causal", "classifier"])
def test_auto_is_every_linear_layer_of_the_blocks(name: str) -> None:
    adapter = student(name)
    layers = {
        key
        for key, module in adapter.model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and any(part.isdigit() for part in key.split("."))
    }
    wrap(adapter.model, SPEC, seed=0)
    found = {key.split(".lora_A")[0] for key in adapter.model.state_dict() if "lora_A" in key}
    assert found == layers
    # 2 encoder layers of 4 + 3 matrices and 2 decoder layers of 8 + 3; per layer q, k, v, o and two of the MLP; 4.
    assert len(found) == {"seq2seq": 2 * 7 + 2 * 11, "causal": 2 * 4, "classifier": 2 * 6}[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_merged_is_a_plain_model_with_the_same_answers(name: str, tmp_path: Path) -> None:
    plain = student(name)
    adapter = student(name)
    wrap(adapter.model, SPEC, seed=0)
    torch.manual_seed(1)
    for parameter in adapter.model.parameters():  # as if trained: every update is another one
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    before = likelihoods(adapter)
    assert (before - likelihoods(plain)).abs().max() > 1e-3
    merge(adapter.model)
    assert_close(likelihoods(adapter), before, atol=1e-5, rtol=0)
    assert adapter.model.state_dict().keys() == plain.model.state_dict().keys()
    save(adapter.model, adapter.tokenizer, CLOSED, ModelCard(base_model="x", recipe="finetune", seed=0), tmp_path / "m")
    loaded = load_adapter(str(tmp_path / "m"), device="cpu")
    assert {key for key in loaded.model.state_dict() if "lora" in key} == set()
    assert torch.equal(likelihoods(loaded), likelihoods(adapter))
    assert not [file.name for file in (tmp_path / "m").iterdir() if "adapter" in file.name]


def test_the_seed_decides_what_is_drawn() -> None:
    def drawn(seed: int) -> list[float]:
        adapter = student("classifier")
        wrap(adapter.model, SPEC, seed=seed)
        return [value.sum().item() for key, value in adapter.model.state_dict().items() if "lora_A" in key]

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = drawn(0)
    assert torch.equal(torch.rand(1), expected)
    assert drawn(0) == first
    assert drawn(1) != first


def test_targets_are_the_ends_of_module_names() -> None:
    adapter = student("seq2seq")
    wrap(adapter.model, LoraSpec(rank=2, targets=("SelfAttention.q", "wo")), seed=0)
    found = {key.split(".lora_A")[0].rpartition(".")[2] for key in adapter.model.state_dict() if "lora_A" in key}
    crossed = [key for key in adapter.model.state_dict() if "EncDecAttention" in key and "lora" in key]
    assert (found, crossed) == ({"q", "wo"}, [])


def test_a_target_that_fits_no_layer_is_told_what_would() -> None:
    with pytest.raises(
        InvalidRequest, match=r"'q_proj' is no linear layer .*: choose among k, o, q, v, wi_0, wi_1, wo"
    ):
        wrap(student("seq2seq").model, LoraSpec(targets=("q", "q_proj")), seed=0)


@pytest.mark.parametrize("name", ["seq2seq", "causal", "classifier-gate"])
def test_a_training_that_broke_off_goes_on_bit_equal(name: str, tmp_path: Path) -> None:
    whole = trained(name, tmp_path / "whole", dropout=0.2)
    broken = student(name)
    wrap(broken.model, LoraSpec(**(SPEC.model_dump() | {"dropout": 0.2})), seed=0)
    trainer_of(broken, tmp_path / "broken", stop_after=2).train()
    checkpoint = last_checkpoint(tmp_path / "broken")
    assert checkpoint is not None
    assert checkpoint.endswith("-2")
    again = student(name)
    wrap(again.model, LoraSpec(**(SPEC.model_dump() | {"dropout": 0.2})), seed=0)
    trainer_of(again, tmp_path / "broken").train(resume_from_checkpoint=checkpoint)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key


def test_the_best_step_is_loaded_into_a_model_with_adapters(tmp_path: Path) -> None:
    adapter = student("classifier")
    wrap(adapter.model, SPEC, seed=0)
    trainer = trainer_of(adapter, tmp_path)
    kept: dict[int, dict[str, torch.Tensor]] = {}
    ranks = iter([0.5, 0.9, 0.4, 0.3])

    def judge() -> Any:
        kept[trainer.state.global_step] = {key: value.clone() for key, value in adapter.model.state_dict().items()}
        found = validate(adapter, [row.example for row in ROWS])
        return type(found)(next(ranks), found.loss)

    trainer.validate = judge
    trainer.train()
    assert trainer.state.best_global_step == 2
    for key, value in adapter.model.state_dict().items():
        assert torch.equal(value, kept[2][key]), key
    assert not torch.equal(kept[2]["head.weight"], kept[4]["head.weight"])
