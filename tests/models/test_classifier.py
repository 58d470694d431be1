from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from understudy.errors import ModelError
from understudy.models.load import load_adapter
from understudy.schemas import TaskSpec
from understudy.testing import LABELS, SENTENCES, tiny_classifier


@pytest.mark.parametrize("name", ["classifier", "gate", "bert"])
def test_the_score_is_the_labels_logit(folder_of: Callable[[str], Path], name: str) -> None:
    adapter = load_adapter(str(folder_of(name)), dtype="float64")
    batch = adapter.encode(SENTENCES[:3], LABELS)
    scores = adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)
    for i, text in enumerate(SENTENCES[:3]):
        ids = torch.tensor([adapter.tokenizer(text)["input_ids"]])
        logits = adapter.model(input_ids=ids).logits[0]
        assert scores[i].item() == pytest.approx(logits[i].item(), rel=1e-10)


def test_labels_nobody_asked_for_take_no_probability(folder_of: Callable[[str], Path]) -> None:
    adapter = load_adapter(str(folder_of("classifier")))
    two, three = adapter.log_likelihoods(SENTENCES[:1] * 2, [LABELS[:2], LABELS])
    assert sum(map(math.exp, two)) == pytest.approx(1)
    assert sum(map(math.exp, three)) == pytest.approx(1)
    assert two[0] - two[1] == pytest.approx(three[0] - three[1])


def test_the_order_of_the_tasks_labels_does_not_matter(folder_of: Callable[[str], Path]) -> None:
    folder = str(folder_of("classifier"))
    there, back = (
        load_adapter(folder, task=TaskSpec(kind="classification", labels=labels)) for labels in (LABELS, LABELS[::-1])
    )
    for one, other in zip(there.answers(SENTENCES), back.answers(SENTENCES), strict=True):
        assert one.text == other.text
        assert one.probabilities == pytest.approx(other.probabilities)


def test_a_model_that_only_counts_its_labels_takes_the_tasks_names_in_order(tmp_path: Path) -> None:
    counted = ("LABEL_0", "LABEL_1", "LABEL_2")
    folder = str(tiny_classifier(tmp_path, labels=counted))
    named = load_adapter(folder, task=TaskSpec(kind="classification", labels=LABELS))
    assert named.encode(SENTENCES[:3], LABELS).labels.tolist() == [[0], [1], [2]]
    with pytest.raises(ModelError, match="'a', 'b': it has LABEL_0, LABEL_1, LABEL_2") as caught:
        load_adapter(folder, task=TaskSpec(kind="classification", labels=("a", "b")))
    assert caught.value.param == "labels"
