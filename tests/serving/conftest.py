from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.schemas import TaskSpec
from understudy.serving.hf import HFEngine
from understudy.testing import tiny_causal, tiny_classifier, tiny_seq2seq

CHOICE = TaskSpec(kind="choice", template="Question: {input} Answer:")


def amend(folder: Path, task: TaskSpec | None = None, **card: Any) -> Path:
    """Change what a published folder says about itself."""
    if task is not None:
        (folder / "task.json").write_text(task.model_dump_json())
    said = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(said | card))
    return folder


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HFEngine]:
    """Engines by name, each loaded once: `gate`, `mean`, `hub`, `written`, `open`, `choice`, `decoder`."""
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
        "choice": lambda folder: amend(tiny_seq2seq(folder), CHOICE),
        "decoder": lambda folder: amend(tiny_causal(folder), CHOICE),
    }
    loaded: dict[str, HFEngine] = {}

    def get(name: str) -> HFEngine:
        if name not in loaded:
            loaded[name] = HFEngine.load(makers[name](tmp_path_factory.mktemp("models") / name))
        return loaded[name]

    return get
