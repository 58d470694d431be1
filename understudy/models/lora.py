"""Low-rank adapters: train a small update beside each linear layer, and melt it into the weights afterwards.

LoRA (Hu et al. 2021, arXiv 2106.09685) by way of `peft`, whose layers are put into the model in place: the model keeps
its class, its attributes and its configuration, a checkpoint holds all of it, and once merged nothing tells it from a
model that was trained in full. Knows nothing of tasks, recipes or learning rates.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from understudy.errors import InvalidRequest
from understudy.schemas import LoraSpec

__all__ = ["merge", "trained_parameters", "wrap"]

_FRESH = ("gate", "head")
"""Parts that a student gets drawn: no low-rank update could teach them, so they are trained in full."""


def wrap(model: Any, spec: LoraSpec, *, seed: int) -> Any:
    """Put adapters beside the model's linear layers, in place, and freeze the rest but for its fresh parts.

    It answers as before, because each update starts at 0. `auto` is every linear layer inside the model's blocks, as
    "LoRA Without Regret" (Schulman et al. 2025) found best; other targets are the last parts of module names (`q`,
    `q_proj`) or longer ends of them. What is drawn depends on `seed` alone. Raises InvalidRequest where a target fits
    no linear layer.
    """
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and _in_block(name)
    }
    names = list(linear) if spec.targets == "auto" else _chosen(linear, spec.targets)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # any factor will do
        lora_dropout=spec.dropout,
        target_modules=names,
        fan_in_fan_out=any(isinstance(linear[name], Conv1D) for name in names),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)  # freezes all else
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _FRESH and not _in_block(name):
            module.requires_grad_(True)
    return model


def merge(model: Any) -> Any:
    """Add each update to its layer's weights, in place, and take the adapters out again."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model


def trained_parameters(model: Any) -> int:
    """How many numbers a training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _in_block(name: str) -> bool:
    """Whether a module is part of one layer of a stack, which has a number."""
    return any(part.isdecimal() for part in name.split("."))


def _chosen(linear: dict[str, nn.Module], targets: tuple[str, ...]) -> list[str]:
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise InvalidRequest(
                f"'{target}' is no linear layer in this model's blocks: choose among {known}", param="lora.targets"
            )
    return [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
