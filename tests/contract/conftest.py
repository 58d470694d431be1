from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from understudy.models.base import Adapter
from understudy.models.load import load_adapter
from understudy.testing import tiny_causal, tiny_classifier, tiny_seq2seq

MAKERS: dict[str, Callable[[Path], Path]] = {
    "t5": tiny_seq2seq,
    "t5-template": lambda folder: tiny_seq2seq(folder, template="Review: {input} Sentiment:"),
    "gpt2": lambda folder: tiny_causal(folder, template="Review: {input}\nSentiment:"),
    "llama": lambda folder: tiny_causal(folder, family="llama"),
    "encoder-mean": tiny_classifier,
    "encoder-gate": lambda folder: tiny_classifier(folder, pooling="gate", template="Review: {input}"),
    "bert": lambda folder: tiny_classifier(folder, kind="bert"),
}


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Adapter]:
    """Every kind of adapter by name, in float64 so that equality can be asked for; each made once."""
    made: dict[str, Adapter] = {}

    def get(name: str) -> Adapter:
        if name not in made:
            folder = MAKERS[name](tmp_path_factory.mktemp("models") / name)
            made[name] = load_adapter(str(folder), dtype="float64")
        return made[name]

    return get


@pytest.fixture(params=sorted(MAKERS))
def adapter(request: pytest.FixtureRequest, adapters: Callable[[str], Adapter]) -> Adapter:
    return adapters(request.param)
