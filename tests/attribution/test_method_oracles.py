"""The same numbers another way: captum, two parametrisations of one function, and other precisions."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from captum import attr as captum
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from understudy.attribution.methods import METHODS, GradientShap, SmoothGrad, make_method
from understudy.attribution.words import word_spans
from understudy.models.base import Adapter, Batch
from understudy.models.load import adapt
from understudy.models.scratch import corpus, train_tokenizer
from understudy.schemas import TaskSpec
from understudy.testing import LABELS, SENTENCES, TARGETS

TEXTS = SENTENCES[:4]
GOLD = ("positive", "negative", "neutral", "positive")

FEW: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 3},
    "smooth_grad": {"n_samples": 3},
    "gradient_shap": {"n_samples": 3},
}


@pytest.fixture(params=["seq2seq", "causal", "classifier"])
def adapter(request: pytest.FixtureRequest) -> Adapter:
    """In float64."""
    found = copy.copy(request.getfixturevalue(request.param))
    found.model = copy.deepcopy(found.model).double()
    return found


def with_words(batch: Batch) -> Batch:
    return replace(batch, words=tuple(tuple(word_spans(text)) for text in batch.texts))


def questions(adapter: Adapter) -> list[Batch]:
    """The mean over the answer, one of its tokens, and why not another answer."""
    batch = adapter.encode(TEXTS, GOLD)
    return [batch, replace(batch, token=0), adapter.encode(TEXTS, GOLD, GOLD[1:] + GOLD[:1])]


def test_captum_has_the_same_gradients(adapter: Adapter) -> None:
    for batch in questions(adapter):
        embeds = adapter.embed(batch.ids).detach().requires_grad_()
        objective = adapter.objective(batch)
        signed = captum.Saliency(objective).attribute(embeds, abs=False, additional_forward_args=batch.rows)
        for norm, order in (("l1", 1), ("l2", 2)):
            found = make_method("saliency", {"norm": norm})(adapter, batch)
            torch.testing.assert_close(found, signed.norm(order, dim=-1), rtol=1e-10, atol=1e-14)
        product = captum.InputXGradient(objective).attribute(embeds, additional_forward_args=batch.rows).sum(-1)
        torch.testing.assert_close(make_method("input_x_gradient", {})(adapter, batch), product, rtol=1e-9, atol=1e-13)


def test_integrated_gradients_are_the_integral(adapter: Adapter) -> None:
    """By the midpoint rule, which needs more points."""
    for batch in questions(adapter):
        embeds, baseline = adapter.embed(batch.ids).detach(), adapter.baseline(batch).detach()
        total = torch.zeros_like(embeds)
        for step in range(30):
            leaf = (baseline + (step + 0.5) / 30 * (embeds - baseline)).requires_grad_()
            total += torch.autograd.grad(adapter.objective(batch)(leaf, *batch.rows).sum(), leaf)[0]
        expected = ((embeds - baseline) * total / 30).sum(-1)
        found = make_method("integrated_gradients", {"n_steps": 20})(adapter, batch)
        torch.testing.assert_close(found, expected, rtol=0, atol=0.01 * float(expected.abs().max()))


def agreement(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def test_captum_smooths_the_same_way_on_average(adapter: Adapter) -> None:
    """Other draws, so close and not equal: captum adds noise to every token, so here every token is the text's."""
    batch = adapter.encode(TEXTS[:1], GOLD[:1])
    batch = replace(batch, offsets=(tuple((0, 1) for _ in batch.offsets[0]),))
    embeds = adapter.embed(batch.ids).detach()
    torch.manual_seed(0)
    tunnel = captum.NoiseTunnel(captum.Saliency(adapter.objective(batch)))
    expected = tunnel.attribute(
        embeds.clone().requires_grad_(),
        nt_type="smoothgrad",
        nt_samples=300,
        nt_samples_batch_size=100,
        stdevs=float(embeds.std(correction=0)),
        abs=False,
        additional_forward_args=batch.rows,
    ).norm(1, dim=-1)
    found = SmoothGrad(n_samples=300, noise=1.0)(adapter, batch)
    assert agreement(found, expected) > 0.9
    assert float(found.sum() / expected.sum()) == pytest.approx(1, abs=0.1)


def test_captum_draws_the_same_shap_on_average(adapter: Adapter) -> None:
    batch = adapter.encode(TEXTS[:1], GOLD[:1])
    torch.manual_seed(0)
    expected = captum.GradientShap(adapter.objective(batch)).attribute(
        adapter.embed(batch.ids).detach().requires_grad_(),
        adapter.baseline(batch).detach(),
        n_samples=300,
        stdevs=0.0,
        additional_forward_args=batch.rows,
    )
    found = GradientShap(n_samples=300, noise=0.0)(adapter, batch)
    assert agreement(found, expected.sum(-1)) > 0.99
    assert float(found.sum()) == pytest.approx(float(expected.sum()), rel=0.1)


class Factored(nn.Module):
    """A linear layer as the product of two, which is the same function."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        width = layer.in_features
        turn = torch.linalg.qr(
            torch.randn(width, width, dtype=layer.weight.dtype, generator=torch.Generator().manual_seed(1))
        )[0]
        self.inner = nn.Linear(width, width, bias=False, dtype=layer.weight.dtype)
        self.outer = nn.Linear(width, layer.out_features, dtype=layer.weight.dtype)
        self.inner.weight.data = 3 * turn
        self.outer.weight.data = layer.weight.data @ turn.T / 3
        self.outer.bias.data = layer.bias.data

    def forward(self, hidden: Tensor) -> Tensor:
        return self.outer(self.inner(hidden))


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"random", "first_words"}))
def test_how_a_function_is_written_never_matters(classifier: Adapter, method: str) -> None:
    """Implementation invariance (Sundararajan et al. 2017), which methods that walk through layers do not have."""
    plain = copy.copy(classifier)
    plain.model = copy.deepcopy(classifier.model).double()
    other = copy.copy(plain)
    other.model = copy.deepcopy(plain.model)
    other.model.head = Factored(other.model.head).requires_grad_(False)
    layer = other.model.encoder.encoder.layer[0]
    layer.intermediate.dense = Factored(layer.intermediate.dense).requires_grad_(False)
    batch = with_words(plain.encode(TEXTS, GOLD))
    one, same = (make_method(method, FEW.get(method, {}))(each, batch) for each in (plain, other))
    torch.testing.assert_close(one, same, rtol=1e-9, atol=1e-13)


def larger(kind: str, dtype: torch.dtype) -> Adapter:
    """A model without kinks, wide enough that a rounded number is no coin toss."""
    torch.manual_seed(0)
    task = TaskSpec()
    model: Any
    if kind == "t5":
        tokenizer = train_tokenizer("t5", corpus(SENTENCES, TARGETS, "{input}"))
        config = T5Config(
            vocab_size=len(tokenizer),
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            feed_forward_proj="gated-gelu",
        )
        model = T5ForConditionalGeneration(config)
    elif kind == "gpt2":
        tokenizer = train_tokenizer("gpt2", corpus(SENTENCES, TARGETS, "{input}"))
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4, initializer_range=0.1, **ends)
        )
    else:
        tokenizer = train_tokenizer("bert", corpus(SENTENCES, LABELS, "{input}"))
        task = TaskSpec(kind="classification", labels=LABELS)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            initializer_range=0.1,
            id2label=dict(enumerate(LABELS)),
            label2id={label: i for i, label in enumerate(LABELS)},
        )
        model = BertForSequenceClassification(config)
    return adapt(model.to(dtype), tokenizer, task, 128)


@pytest.fixture(scope="module")
def model() -> Callable[[str, torch.dtype], Adapter]:
    return functools.cache(larger)


@pytest.fixture(scope="module")
def reference(model: Callable[[str, torch.dtype], Adapter]) -> Callable[[str, str], list[Tensor]]:
    """Each text's map by a float32 model that has seen it alone; made once for each model and method."""

    def get(kind: str, method: str) -> list[Tensor]:
        return [maps(model(kind, torch.float32), method, [i])[0] for i in range(6)]

    return functools.cache(get)


def maps(adapter: Adapter, method: str, positions: list[int]) -> list[Tensor]:
    """The scores of the text's own tokens or words, one tensor a text, all explained in one batch."""
    batch = with_words(adapter.encode([SENTENCES[i] for i in positions], [TARGETS[i] for i in positions]))
    asked = make_method(method, FEW.get(method, {}))
    found = asked(adapter, batch)
    if asked.unit == "word":
        return [row[: len(words)] for row, words in zip(found, batch.words, strict=True)]
    return [row[text] for row, text in zip(found, batch.text_tokens, strict=True)]


KINDS = ["bert", "gpt2", "t5"]
ASKED = sorted(set(METHODS) - {"random", "first_words"})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ASKED)
def test_in_float32_a_batch_explains_as_one_by_one(model: Any, reference: Any, kind: str, method: str) -> None:
    together = maps(model(kind, torch.float32), method, list(range(6)))
    for found, expected in zip(together, reference(kind, method), strict=True):
        # Occlusion is the difference of two logits of about 1, and as exact as those.
        floor = 1e-6 if method == "occlusion" else 0
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()) + floor)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ASKED)
def test_in_bfloat16_a_batch_ranks_as_float32_one_by_one(model: Any, reference: Any, kind: str, method: str) -> None:
    """Occlusion takes the difference of two logits that bfloat16 has rounded to three digits, and keeps less."""
    together = maps(model(kind, torch.bfloat16), method, list(range(6)))
    least = 0.9 if method == "occlusion" else 0.99
    ranks = [agreement(rank(found), rank(one)) for found, one in zip(together, reference(kind, method), strict=True)]
    assert sum(ranks) / len(ranks) >= least


def rank(values: Tensor) -> Tensor:
    return values.double().argsort().argsort().double()
