from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from understudy.models.forms import Form
from understudy.schemas import TaskSpec
from understudy.serving.hf import HFEngine
from understudy.testing import tiny_causal, tiny_classifier, tiny_seq2seq

CLOSED = TaskSpec(kind="classification", labels=("negative", "positive"))
CHOICE = TaskSpec(kind="choice", template="Question: {input} Answer:")


def amend(folder: Path, task: TaskSpec | None = None, **card: Any) -> Path:
    """Change what a published folder says about itself."""
    if task is not None:
        (folder / "task.json").write_text(task.model_dump_json())
    said = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(said | card))
    return folder


def in_form(folder: Path, form: Form) -> Path:
    """A student that writes its label and its reasons in one text."""
    return amend(folder, CLOSED, reasons="generated", form=form)


def opened(folder: Path) -> Path:
    """A seq2seq student whose gate is open for some tokens and shut for others, as one is that has learned."""
    weights = load_file(folder / "model.safetensors")
    weights["encoder.gate.weight"] = torch.randn(weights["encoder.gate.weight"].shape, generator=torch.manual_seed(0))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HFEngine]:
    """Engines by name, each loaded once; their names are the keys below."""
    makers: dict[str, Callable[[Path], Path]] = {
        "gate": lambda folder: tiny_classifier(folder, pooling="gate"),
        "mean": tiny_classifier,
        "hub": lambda folder: tiny_classifier(folder, kind="bert", template="Review: {input}"),
        "written": lambda folder: amend(
            tiny_seq2seq(folder, template="predict: {input}"),
            TaskSpec(kind="classification", labels=("negative", "positive"), template="predict: {input}"),
            reasons="generated",
            explain_template="explain: {input}",
        ),
        "open": lambda folder: amend(tiny_seq2seq(folder), reasons="generated", explain_template="explain: {input}"),
        "label_then_rationale": lambda folder: in_form(tiny_seq2seq(folder), "label_then_rationale"),
        "rationale_then_label": lambda folder: in_form(tiny_causal(folder), "rationale_then_label"),
        "gated": lambda folder: amend(opened(tiny_seq2seq(folder, pooling="gate")), CLOSED),
        "choice": lambda folder: amend(tiny_seq2seq(folder), CHOICE),
        "decoder": lambda folder: amend(tiny_causal(folder), CHOICE),
    }
    loaded: dict[str, HFEngine] = {}

    def get(name: str) -> HFEngine:
        if name not in loaded:
            loaded[name] = HFEngine.load(makers[name](tmp_path_factory.mktemp("models") / name))
        return loaded[name]

    return get
