from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn

from understudy.models.attention import Attention
from understudy.models.base import Adapter, Batch
from understudy.models.likelihood import IGNORE
from understudy.models.load import load_adapter
from understudy.models.text import Encoded, pad
from understudy.schemas import TaskSpec
from understudy.testing import tiny_causal, tiny_classifier, tiny_seq2seq

END = 0
LETTERS = "_abcd"
"""A text of letters: `_` is padding and stands for nothing, and each text ends in the special token END."""


class LinearAdapter(Adapter):
    """A model whose logits are sums over the tokens of what each adds: every attribution of it is known by hand.

    The logit of target letter l is the sum over the tokens t of `table[t] @ weights[l]`, plus one.
    """

    architecture = "linear"

    def __init__(self) -> None:
        model = nn.Module()
        model.table = nn.Parameter(
            torch.tensor([[0.5, -0.5], [1.0, 2.0], [-1.0, 1.0], [3.0, 0.5], [-2.0, 4.0]], dtype=torch.float64)
        )
        model.weights = nn.Parameter(
            torch.tensor([[0.0, 0.0], [1.0, -2.0], [0.5, 0.25], [-3.0, 4.0], [2.0, 1.0]], dtype=torch.float64)
        )
        super().__init__(model, SimpleNamespace(), TaskSpec(), max_tokens=64)
        self.seen: Attention | None = None

    @property
    def neutral_id(self) -> int:
        return 0

    def tokenize(self, texts: Sequence[str]) -> list[Encoded]:
        found = [[(LETTERS.index(letter.group()), letter.span()) for letter in re.finditer(r"\w", t)] for t in texts]
        return [Encoded([*(i for i, _ in row), END], [*(span for _, span in row), None]) for row in found]

    def stack(self, encoded: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        return pad([row.ids for row in encoded], 0), pad([[1] * len(row.ids) for row in encoded], 0)

    def collate(
        self,
        encoded: Sequence[Encoded],
        texts: Sequence[str],
        targets: Sequence[str],
        against: Sequence[str] | None = None,
    ) -> Batch:
        ids, mask = self.stack(encoded)
        labels, others = (
            names and pad([[LETTERS.index(letter) for letter in name] for name in names], IGNORE)
            for names in (targets, against)
        )
        offsets = tuple((*row.offsets, *[None] * (ids.shape[1] - len(row.ids))) for row in encoded)
        return Batch(tuple(texts), tuple(encoded), ids, mask, labels, offsets, others)

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.table[ids]

    def token_scores(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        total = (embeds * mask.unsqueeze(-1)).sum(1)  # (B, D)
        logits = (total.unsqueeze(1) * self.model.weights[labels.clamp_min(0)]).sum(-1) + 1
        return logits.masked_fill(~self.own(labels), 0)

    def attention(self, batch: Batch) -> Attention | None:  # noqa: ARG002
        return self.seen

    def own(self, labels: Tensor) -> Tensor:
        return labels.ne(IGNORE)

    def target_tokens(self, batch: Batch) -> list[list[str]]:
        return [[LETTERS[i] for i in row if i != IGNORE] for row in batch.labels.tolist()]

    def likelihoods(self, *_: Any) -> NoReturn:
        raise NotImplementedError

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError


@pytest.fixture
def linear() -> LinearAdapter:
    return LinearAdapter()


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return load_adapter(str(tiny_classifier(tmp_path_factory.mktemp("classifier"))))


@pytest.fixture(scope="session")
def seq2seq(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return load_adapter(str(tiny_seq2seq(tmp_path_factory.mktemp("seq2seq"))))


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return load_adapter(str(tiny_causal(tmp_path_factory.mktemp("causal"))))
