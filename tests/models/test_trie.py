"""Labels of several tokens are scored in one walk over their common beginnings: the same numbers, in fewer steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from understudy.models.base import Adapter
from understudy.models.load import load_adapter
from understudy.models.trie import levels, rows_at_once
from understudy.models.writer import Target, Writer
from understudy.testing import SENTENCES, tiny_seq2seq

LABELS = ("cat", "catalog", "cat and dog", "cat and bird", "not at all", "x")


@pytest.fixture(scope="module", params=["mean", "gate"])
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """A tiny model with opinions: a fresh one gives all labels the same probability."""
    folder: Path = tiny_seq2seq(tmp_path_factory.mktemp("model") / "m", pooling=request.param)
    weights, drawn = load_file(folder / "model.safetensors"), torch.manual_seed(0)
    for name, value in weights.items():
        if value.dim() == 2 and "relative_attention_bias" not in name:
            weights[name] = 3 * value + 0.02 * torch.randn(value.shape, generator=drawn)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return load_adapter(str(folder), device="cpu")


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.models.seq2seq.FEW", 2)


def both(adapter: Any, texts: Any, targets: Any) -> tuple[list[list[float]], list[list[float]]]:
    """By the walk, and each target on its own, as any writer is asked."""
    encoded = adapter.tokenize(texts)
    return adapter.target_likelihoods(encoded, targets), Writer.target_likelihoods(adapter, encoded, targets)


def test_the_walk_gives_what_each_target_alone_would(adapter: Any) -> None:
    texts = list(SENTENCES[:5])
    targets = [
        [Target(adapter.written_ids(name, ended=True)) for name in LABELS[: 2 + i % 5]] for i in range(len(texts))
    ]
    found, alone = both(adapter, texts, targets)
    assert len({round(value, 3) for value in alone[4]}) == len(alone[4]), "these labels can be told apart"
    for ours, theirs in zip(found, alone, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_what_is_given_counts_for_nothing_in_the_walk_too(adapter: Any) -> None:
    ids = [adapter.written_ids(name, ended=True) for name in ("cat and dog", "cat and bird")]
    targets = [[Target(row, given=given) for row in ids for given in (0, 1, 2)]]  # six, which are many here
    found, alone = both(adapter, [SENTENCES[0]], targets)
    assert found[0] == pytest.approx(alone[0], rel=1e-5)


def test_chunks_leave_no_trace(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = list(SENTENCES[:3])
    whole = adapter.log_likelihoods(texts, [LABELS] * 3)
    monkeypatch.setattr("understudy.models.trie.MAX_KEPT", 1)
    assert rows_at_once(adapter.model.config, 10) == 1
    for ours, theirs in zip(adapter.log_likelihoods(texts, [LABELS] * 3), whole, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_each_beginning_is_one_step(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    forward = type(adapter.model).forward

    def counted(model: Any, *args: Any, **options: Any) -> Any:
        if options.get("decoder_input_ids") is not None:
            rows.append(len(options["decoder_input_ids"]))
        return forward(model, *args, **options)

    monkeypatch.setattr(type(adapter.model), "forward", counted)
    ids = [adapter.written_ids(name, ended=True) for name in LABELS]
    adapter.target_likelihoods(adapter.tokenize([SENTENCES[0]]), [[Target(row) for row in ids]])
    wanted = [{tuple(row[:depth]) for row in ids if len(row) > depth} for depth in range(max(map(len, ids)))]
    assert rows == [len(one) for one in wanted]
    assert rows[0] == 1
    assert sum(rows) < sum(map(len, ids))


def test_few_targets_share_one_pass(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[int] = []
    walk = type(adapter)._walked
    monkeypatch.setattr(
        type(adapter),
        "_walked",
        lambda self, rows, targets: walked.extend(map(len, targets)) or walk(self, rows, targets),
    )
    found = adapter.log_likelihoods(list(SENTENCES[:3]), [LABELS[:2], LABELS, LABELS[:2]])
    assert walked == [len(LABELS)]
    assert [len(row) for row in found] == [2, len(LABELS), 2]
    assert found[2] == pytest.approx(adapter.log_likelihoods([SENTENCES[2]], [LABELS])[0][:2], rel=1e-5)


def test_the_tree_of_two_texts() -> None:
    found = levels([(0, [5, 6, 1]), (0, [5, 7, 1]), (1, [5, 1]), (0, [5, 6, 9])])
    assert [level.owners for level in found] == [[0, 1], [0, 1], [0, 0]]
    assert [level.tokens for level in found] == [[], [5, 5], [6, 7]]
    assert [level.parents for level in found] == [[], [0, 1], [0, 0]]
    assert found[0].wanted == [(0, 0, 5), (1, 0, 5), (2, 1, 5), (3, 0, 5)]
    assert found[2].wanted == [(0, 0, 1), (1, 1, 1), (3, 0, 9)]
    assert levels([]) == []
