from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.errors import InvalidRequest, UnknownName
from understudy.models.load import create
from understudy.models.scratch import FAMILIES, corpus, parse_scratch, train_tokenizer
from understudy.schemas import TaskSpec
from understudy.testing import LABELS, SENTENCES, TARGETS

TASK = TaskSpec(kind="classification", labels=LABELS)


@pytest.mark.parametrize(
    ("ref", "family", "layers", "width", "heads"),
    [
        ("scratch:bert-2x128", "bert", 2, 128, 4),
        ("scratch:t5-6x512", "t5", 6, 512, 8),
        ("scratch:gpt2-1x16", "gpt2", 1, 16, 2),
        ("scratch:bert-1x40", "bert", 1, 40, 5),
    ],
)
def test_a_reference_says_family_and_size(ref: str, family: str, layers: int, width: int, heads: int) -> None:
    scratch = parse_scratch(ref)
    assert (scratch.family, scratch.layers, scratch.width, scratch.heads) == (family, layers, width, heads)
    assert width % scratch.heads == 0


@pytest.mark.parametrize(
    "ref", ["scratch:", "scratch:bert", "scratch:bert-0x64", "scratch:bert-2x13", "scratch:bert-2"]
)
def test_a_malformed_reference_is_told_what_is_right(ref: str) -> None:
    with pytest.raises(InvalidRequest, match="for example scratch:bert-2x128") as caught:
        parse_scratch(ref)
    assert caught.value.param == "model"


def test_an_unknown_family_lists_those_there_are() -> None:
    with pytest.raises(UnknownName, match=r"choose from bert, gpt2, t5\. Did you mean 'bert'"):
        parse_scratch("scratch:brt-2x128")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_labels_and_template_words_are_known_to_the_tokenizer(family: str) -> None:
    tokenizer = train_tokenizer(family, corpus(SENTENCES, ["rare_label"], "Classify this: {input}"))
    ids = tokenizer("Classify this rare_label")["input_ids"]
    assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids


def fingerprints() -> str:
    made = (train_tokenizer(family, corpus(SENTENCES, TARGETS, "{input}")) for family in sorted(FAMILIES))
    return " ".join(hashlib.sha256(one.backend_tokenizer.to_str().encode()).hexdigest() for one in made)


def test_equal_texts_give_equal_tokenizers_in_another_process() -> None:
    """The trainers iterate over hash maps, whose order differs from process to process."""
    code = "import test_scratch; print(test_scratch.fingerprints())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprints()


@pytest.mark.parametrize("ref", ["scratch:bert-1x16", "scratch:t5-1x16", "scratch:gpt2-1x16"])
def test_the_seed_decides_the_weights(ref: str) -> None:
    def weights(seed: int) -> list[float]:
        task = TASK if "bert" in ref else TaskSpec()
        model, _ = create(ref, store=None, task=task, texts=SENTENCES, targets=TARGETS, seed=seed)
        assert all(parameter.requires_grad for parameter in model.parameters())
        return [parameter.abs().sum().item() for parameter in model.parameters()]

    assert weights(0) == weights(0)
    assert weights(0) != weights(1)
