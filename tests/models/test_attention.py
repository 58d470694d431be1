"""Attention weights: what a model gives, what they are, and that asking for them changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    FNetConfig,
    FNetForSequenceClassification,
    MambaConfig,
    MambaForCausalLM,
    ModernBertConfig,
    ModernBertForSequenceClassification,
)

from understudy.models.attention import head_means, with_attention
from understudy.models.base import Adapter
from understudy.models.load import adapt, load_adapter
from understudy.models.scratch import corpus, train_tokenizer
from understudy.schemas import TaskSpec
from understudy.testing import LABELS, SENTENCES

TEXTS = SENTENCES[:3]
NAMES = ["seq2seq", "gated", "causal", "llama", "classifier", "gate", "bert"]


def load(folder_of: Callable[[str], Path], name: str) -> Adapter:
    return load_adapter(str(folder_of(name)), dtype="float64")


@pytest.mark.parametrize("name", NAMES)
def test_attention_is_shared_out_among_the_tokens_of_the_text(folder_of: Callable[[str], Path], name: str) -> None:
    adapter = load(folder_of, name)
    batch = adapter.encode([*TEXTS, "fun"], [*LABELS, LABELS[0]])
    found = adapter.attention(batch)
    assert found is not None
    width = found.reading.shape[-1]
    causal = adapter.architecture == "causal"
    assert width == batch.ids.shape[1] + (batch.labels.shape[1] if causal else 0)
    real = torch.cat([batch.mask, adapter.own(batch.labels)], 1).bool() if causal else batch.mask.bool()
    for layer in found.layers:
        assert layer.shape == (4, width, width)
        for weights, mine in zip(layer, real, strict=True):
            assert weights[mine].sum(-1).allclose(torch.ones(1, dtype=weights.dtype), atol=1e-6)
            assert weights[mine][:, ~mine].abs().sum() == 0
            assert not causal or weights[mine][:, mine].triu(1).abs().sum() == 0
    assert found.reading.shape == (4, batch.labels.shape[1], width)
    assert found.reading.sum(-1).allclose(adapter.own(batch.labels).double(), atol=1e-6)
    assert found.reading.masked_select(~real.unsqueeze(1)).abs().sum() == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_is_the_mean_over_its_heads(folder_of: Callable[[str], Path], name: str) -> None:
    """As a model that was loaded to give weights gives them, for one text and its answer."""
    adapter = load(folder_of, name)
    batch = adapter.encode(TEXTS[:1], LABELS[:1])
    found = adapter.attention(batch)
    assert found is not None
    adapter.model.set_attn_implementation("eager")
    ids = batch.ids
    if adapter.architecture == "causal":
        ids = torch.cat([ids, batch.labels], 1)
    extra = {"labels": batch.labels} if adapter.architecture == "seq2seq" else {}
    outputs = adapter.model(input_ids=ids, output_attentions=True, **extra)
    layers = outputs.encoder_attentions if adapter.architecture == "seq2seq" else outputs.attentions
    assert len(found.layers) == len(layers) > 0
    for mine, weights in zip(found.layers, layers, strict=True):
        torch.testing.assert_close(mine, weights.mean(1).to(mine.dtype), rtol=1e-6, atol=1e-9)


def test_an_answer_is_read_where_the_head_reads(folder_of: Callable[[str], Path]) -> None:
    mean, tags, gate, first = (load(folder_of, name) for name in ("classifier", "tags", "gate", "bert"))
    batch = mean.encode(["fun", *TEXTS], [LABELS[0]] * 4)
    real = batch.mask.double()

    def reading(adapter: Adapter) -> torch.Tensor:
        found = adapter.attention(batch)
        assert found is not None
        return found.reading.squeeze(1)

    for even in (mean, tags):
        torch.testing.assert_close(reading(even), real / real.sum(-1, keepdim=True))
    gates = gate.model(input_ids=batch.ids, attention_mask=batch.mask).gate_logits.sigmoid() * real
    torch.testing.assert_close(reading(gate), gates / gates.sum(-1, keepdim=True))
    assert reading(first)[:, 0].tolist() == [1] * 4


def test_a_decoder_reads_each_token_of_its_answer_one_place_before(folder_of: Callable[[str], Path]) -> None:
    adapter = load(folder_of, "causal")
    batch = adapter.encode(TEXTS[:2], ["the plot is thin", "positive"])
    found = adapter.attention(batch)
    assert found is not None
    last = batch.ids.shape[1] - 1
    for i, row in enumerate(adapter.own(batch.labels)):
        assert found.reading[i].nonzero().tolist() == [[s, last + s] for s in range(int(row.sum()))]


@pytest.mark.parametrize("name", NAMES)
def test_asking_changes_no_later_answer_by_a_bit(folder_of: Callable[[str], Path], name: str) -> None:
    adapter = load_adapter(str(folder_of(name)))
    kernels = {key: part.config._attn_implementation for key, part in parts(adapter)}
    batch = adapter.encode(TEXTS, LABELS)
    embeds = adapter.embed(batch.ids)
    before = adapter.score(embeds, batch.mask, batch.labels)
    adapter.attention(batch)
    assert torch.equal(adapter.score(embeds, batch.mask, batch.labels), before)
    assert {key: part.config._attn_implementation for key, part in parts(adapter)} == kernels
    assert set(kernels.values()) == {"sdpa"}


def parts(adapter: Adapter) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in adapter.model.named_modules() if hasattr(part, "config")]


def test_a_failing_pass_gives_the_kernels_back(folder_of: Callable[[str], Path]) -> None:
    adapter = load(folder_of, "bert")
    with pytest.raises(RuntimeError):
        with_attention(adapter.model, inputs_embeds=torch.zeros(1, 2, 3), attention_mask=torch.ones(1, 2))
    assert adapter.model.config._attn_implementation == "sdpa"


def without_attention(kind: str) -> Adapter:
    if kind == "mamba":
        tokenizer = train_tokenizer("gpt2", corpus(SENTENCES, LABELS, "{input}"))
        return adapt(
            MambaForCausalLM(MambaConfig(vocab_size=len(tokenizer), hidden_size=16, state_size=4, num_hidden_layers=1)),
            tokenizer,
            TaskSpec(),
            64,
        )
    tokenizer = train_tokenizer("bert", corpus(SENTENCES, LABELS, "{input}"))
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    config = FNetConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, intermediate_size=32, pad_token_id=0, **names
    )
    task = TaskSpec(kind="classification", labels=LABELS)
    return adapt(FNetForSequenceClassification(config), tokenizer, task, 64)


@pytest.mark.parametrize("kind", ["mamba", "fnet"])
def test_a_model_without_attention_has_none(kind: str) -> None:
    adapter = without_attention(kind)
    assert adapter.attention(adapter.encode(TEXTS[:2], LABELS[:2])) is None


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_hub_model_says_how_it_pools(pooling: str) -> None:
    tokenizer = train_tokenizer("bert", corpus(SENTENCES, LABELS, "{input}"))
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        classifier_pooling=pooling,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        cls_token_id=0,
        sep_token_id=0,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    task = TaskSpec(kind="classification", labels=LABELS)
    adapter = adapt(ModernBertForSequenceClassification(config), tokenizer, task, 64)
    batch = adapter.encode(["fun", TEXTS[0]], LABELS[:2])
    found = adapter.attention(batch)
    assert found is not None
    shares = [row[row > 0].tolist() for row in found.reading.squeeze(1)]
    lengths = batch.mask.sum(-1).tolist() if pooling == "mean" else [1, 1]
    assert shares == [pytest.approx([1 / length] * length) for length in lengths]


def test_weights_of_another_shape_are_none() -> None:
    class Outputs:
        attentions = (torch.zeros(1, 2, 3),)

    assert head_means(Outputs(), "attentions") == []
    assert head_means(Outputs(), "encoder_attentions") == []
