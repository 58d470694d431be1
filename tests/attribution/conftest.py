from __future__ import annotations

import pytest

from understudy.models.base import Adapter
from understudy.models.load import load_adapter
from understudy.testing import tiny_causal, tiny_classifier, tiny_seq2seq


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return load_adapter(str(tiny_classifier(tmp_path_factory.mktemp("classifier"))))


@pytest.fixture(scope="session")
def seq2seq(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return load_adapter(str(tiny_seq2seq(tmp_path_factory.mktemp("seq2seq"))))


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return load_adapter(str(tiny_causal(tmp_path_factory.mktemp("causal"))))
