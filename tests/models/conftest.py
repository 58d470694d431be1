from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from understudy.testing import tiny_causal, tiny_classifier, tiny_seq2seq

MAKERS: dict[str, Callable[[Path], Path]] = {
    "seq2seq": tiny_seq2seq,
    "causal": lambda folder: tiny_causal(folder, template="Review: {input}\nSentiment:"),
    "llama": lambda folder: tiny_causal(folder, family="llama"),
    "classifier": tiny_classifier,
    "gate": lambda folder: tiny_classifier(folder, pooling="gate"),
    "tags": lambda folder: tiny_classifier(folder, pooling="tags"),
    "gated": lambda folder: tiny_seq2seq(folder, pooling="gate"),
    "bert": lambda folder: tiny_classifier(folder, kind="bert"),
}


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model by name; each made once and read only."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = MAKERS[name](tmp_path_factory.mktemp("models") / name)
        return made[name]

    return get
