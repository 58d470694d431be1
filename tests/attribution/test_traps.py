"""Mistakes that are easy to make and hard to see, each made on purpose: the map would differ, and ours does not.

The reference is a careful person's: one text at a time, in float64, no padding, the model called as its authors mean it
to be called.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from understudy.attribution.aggregate import word_scores
from understudy.attribution.faithfulness import faithfulness
from understudy.attribution.methods import IntegratedGradients, Saliency
from understudy.attribution.words import word_spans
from understudy.models.base import Adapter, Batch
from understudy.models.load import adapt
from understudy.models.text import Encoded
from understudy.schemas import Word
from understudy.testing import SENTENCES

TEXTS = (SENTENCES[0], SENTENCES[8], "fun", SENTENCES[5])
TARGETS = ("the plot is thin", "negative", "a dull film", "positive")


def in_float64(adapter: Adapter) -> Adapter:
    other = copy.copy(adapter)
    other.model = copy.deepcopy(adapter.model).double()
    return other


@pytest.fixture
def t5(seq2seq: Adapter) -> Adapter:
    return in_float64(seq2seq)


@pytest.fixture
def gpt2(causal: Adapter) -> Adapter:
    return in_float64(causal)


def t5_alone(adapter: Adapter, text: str, target: str) -> Tensor:
    """(T,) saliency of one text, by transformers alone: no adapter, no batch, no padding."""
    model, tokenizer = adapter.model, adapter.tokenizer
    ids = tokenizer(text, return_tensors="pt").input_ids
    labels = tokenizer(text_target=target, return_tensors="pt").input_ids
    leaf = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=leaf, labels=labels).logits  # transformers shifts the labels itself
    logits[0, range(labels.shape[1] - 1), labels[0, :-1]].mean().backward()
    return leaf.grad[0].norm(1, dim=-1)


def gpt2_alone(adapter: Adapter, text: str, target: str) -> Tensor:
    model, tokenizer = adapter.model, adapter.tokenizer
    prompt = tokenizer(text, return_tensors="pt").input_ids
    answer = tokenizer(" " + target, return_tensors="pt").input_ids
    leaf = model.get_input_embeddings()(torch.cat([prompt, answer], 1)).detach().requires_grad_()
    logits = model(inputs_embeds=leaf).logits
    first = prompt.shape[1]
    logits[0, range(first - 1, first - 1 + answer.shape[1]), answer[0]].mean().backward()
    return leaf.grad[0, :first].norm(1, dim=-1)


def is_right(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Equal to the reference, up to the last digits of float64."""
    return all(
        torch.allclose(one, other, rtol=1e-9, atol=1e-12 * float(other.max()))
        for one, other in zip(found, expected, strict=True)
    )


def is_far(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Some score is off by more than a hundredth of its map's largest."""
    return any(
        float((one - other).abs().max() / other.abs().max()) > 0.01 for one, other in zip(found, expected, strict=True)
    )


def of_tokens(batch: Batch, values: Tensor) -> list[Tensor]:
    """(B, T) without the padding, one tensor a text."""
    return [row[mask.bool()] for row, mask in zip(values, batch.mask, strict=True)]


def saliency(batch: Batch, embed: Callable[[Tensor], Tensor], score: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Somebody else's saliency of a batch, whose score may be a mistake."""
    leaf = embed(batch.ids).detach().requires_grad_()
    (found,) = torch.autograd.grad(score(leaf).sum(), leaf)
    return of_tokens(batch, found.norm(1, dim=-1))


@pytest.fixture
def reference(t5: Adapter) -> list[Tensor]:
    return [t5_alone(t5, text, target) for text, target in zip(TEXTS, TARGETS, strict=True)]


def test_ours_is_the_reference(t5: Adapter, gpt2: Adapter, reference: list[Tensor]) -> None:
    batch = t5.encode(TEXTS, TARGETS)
    assert batch.mask.eq(0).any()
    assert is_right(of_tokens(batch, Saliency()(t5, batch)), reference)
    batch = gpt2.encode(TEXTS, TARGETS)
    assert batch.mask.eq(0).any()
    expected = [gpt2_alone(gpt2, text, target) for text, target in zip(TEXTS, TARGETS, strict=True)]
    assert is_right(of_tokens(batch, Saliency()(gpt2, batch)), expected)


def test_trap_no_attention_mask(t5: Adapter, reference: list[Tensor]) -> None:
    batch = t5.encode(TEXTS, TARGETS)
    everything = torch.ones_like(batch.mask)
    assert is_far(saliency(batch, t5.embed, lambda leaf: t5.score(leaf, everything, batch.labels)), reference)
    padding = Saliency()(t5, replace(batch, mask=everything))[batch.mask.eq(0)]
    assert padding.abs().max() > 0


def test_trap_the_cross_attention_mask_is_forgotten(t5: Adapter, reference: list[Tensor]) -> None:
    batch = t5.encode(TEXTS, TARGETS)
    own = t5.own(batch.labels)

    def score(leaf: Tensor, mask: Tensor | None) -> Tensor:
        states = t5.model.get_encoder()(inputs_embeds=leaf, attention_mask=batch.mask).last_hidden_state
        logits = t5.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=t5.model.prepare_decoder_input_ids_from_labels(batch.labels),
        ).logits
        picked = logits.gather(-1, batch.labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return (picked * own).sum(-1) / own.sum(-1)

    assert is_right(saliency(batch, t5.embed, lambda leaf: score(leaf, batch.mask)), reference)
    assert is_far(saliency(batch, t5.embed, lambda leaf: score(leaf, None)), reference)


def test_trap_the_model_is_left_in_train_mode(t5: Adapter, reference: list[Tensor]) -> None:
    batch = t5.encode(TEXTS, TARGETS)
    adopted = adapt(t5.model.train(), t5.tokenizer, t5.task)  # what `from_pretrained` never leaves, but training does
    assert is_right(of_tokens(batch, Saliency()(adopted, batch)), reference)
    torch.manual_seed(0)
    t5.model.train()
    assert is_far(of_tokens(batch, Saliency()(t5, batch)), reference)


def test_trap_labels_are_not_shifted_right(t5: Adapter, reference: list[Tensor]) -> None:
    batch = t5.encode(TEXTS, TARGETS)
    own = t5.own(batch.labels)

    def unshifted(leaf: Tensor) -> Tensor:
        seen = batch.labels.clamp_min(0)
        logits = t5.model(inputs_embeds=leaf, attention_mask=batch.mask, decoder_input_ids=seen).logits
        return (logits.gather(-1, seen.unsqueeze(-1)).squeeze(-1) * own).sum(-1) / own.sum(-1)

    assert is_far(saliency(batch, t5.embed, unshifted), reference)


def test_trap_the_gradient_of_the_tied_embedding_table(t5: Adapter) -> None:
    """A word that stands twice, or in the answer too, collects what belongs to other places."""
    text, target = "the plot and the plot", "the plot"
    model = copy.deepcopy(t5.model).requires_grad_(True)
    table = model.get_input_embeddings().weight
    batch = t5.encode([text], [target])
    adopted = copy.copy(t5)
    adopted.model = model
    adopted.score(adopted.embed(batch.ids), batch.mask, batch.labels).sum().backward()
    expected = [t5_alone(t5, text, target)]
    assert is_far([table.grad[batch.ids[0]].norm(1, dim=-1)], expected)
    assert is_right([Saliency()(t5, batch)[0]], expected)


def test_trap_the_loss_is_averaged_over_the_batch(t5: Adapter) -> None:
    """`outputs.loss` divides by the tokens of all answers: an example's gradient shrinks with its neighbours'."""

    def by_loss(batch: Batch) -> Tensor:
        leaf = t5.embed(batch.ids).detach().requires_grad_()
        loss = t5.model(inputs_embeds=leaf, attention_mask=batch.mask, labels=batch.labels).loss
        return torch.autograd.grad(loss, leaf)[0][0].norm(1, dim=-1)[batch.mask[0].bool()]

    alone, together = t5.encode(TEXTS[:1], TARGETS[:1]), t5.encode(TEXTS, TARGETS)
    assert is_far([by_loss(together)], [by_loss(alone)])
    ours = [of_tokens(batch, Saliency()(t5, batch))[0] for batch in (together, alone)]
    assert is_right(ours[:1], ours[1:])


def test_trap_a_layer_method_reads_the_decoders_rows(t5: Adapter) -> None:
    """Where encoder and decoder share one embedding module, its last call is the decoder's (captum issue 1110)."""
    batch = t5.encode(TEXTS[:1], TARGETS[:1])
    model = copy.deepcopy(t5.model)
    model.encoder.embed_tokens = model.decoder.embed_tokens = model.shared
    inputs = model.prepare_decoder_input_ids_from_labels(batch.labels)

    def score(ids: Tensor) -> Tensor:
        return model(input_ids=ids, decoder_input_ids=inputs).logits[:, 0].amax(-1)

    assert batch.ids.shape[1] != batch.labels.shape[1]
    found = LayerGradientXActivation(score, model.shared).attribute(batch.ids)
    parts = found if isinstance(found, tuple) else (found,)
    assert parts[0].shape[1] == batch.labels.shape[1]  # of the answer, and not of the text
    shared = copy.copy(t5)
    shared.model = model
    assert Saliency()(shared, batch).shape == batch.ids.shape
    assert is_right([Saliency()(shared, batch)[0]], [t5_alone(t5, TEXTS[0], TARGETS[0])])


def test_trap_a_kink_makes_batches_differ() -> None:
    """At a kink the last digit of a float32 decides a gradient: invariance is asked in float64, or of smooth models."""
    for activation, jumps in ((nn.ReLU(), True), (nn.GELU(), False)):
        slopes = []
        for value in (-1e-8, 1e-8):  # what rounding may do to zero
            leaf = torch.tensor(value, requires_grad=True)
            activation(leaf).backward()
            slopes.append(float(leaf.grad))
        assert (abs(slopes[0] - slopes[1]) > 0.5) == jumps


def test_a_model_with_kinks_explains_a_batch_as_one_by_one_in_float64(t5: Adapter) -> None:
    config = copy.deepcopy(t5.model.config)
    config.update({"feed_forward_proj": "relu", "dense_act_fn": "relu", "is_gated_act": False})
    torch.manual_seed(0)
    relu = adapt(type(t5.model)(config).double(), t5.tokenizer, t5.task)
    assert any(isinstance(module, nn.ReLU) for module in relu.model.modules())
    batch = relu.encode(TEXTS, TARGETS)
    expected = [t5_alone(relu, text, target) for text, target in zip(TEXTS, TARGETS, strict=True)]
    assert is_right(of_tokens(batch, Saliency()(relu, batch)), expected)


def test_trap_left_padding_without_position_ids(gpt2: Adapter) -> None:
    batch = gpt2.encode(TEXTS, ["positive"] * 4)
    expected = [gpt2_alone(gpt2, text, "positive") for text in TEXTS]
    assert is_right(of_tokens(batch, Saliency()(gpt2, batch)), expected)
    forgetful: Any = copy.copy(gpt2)
    forgetful._accepted = forgetful._accepted - {"position_ids"}
    assert is_far(of_tokens(batch, Saliency()(forgetful, batch)), expected)


def by_pieces(pieces: Sequence[str], scores: Sequence[float]) -> list[float]:
    """The shortcut: a new word begins where a piece begins with the mark of a space."""
    words: list[float] = []
    for piece, score in zip(pieces, scores, strict=True):
        if piece.startswith("▁") or not words:
            words.append(0.0)
        words[-1] += score
    return words


def test_trap_words_are_told_by_their_pieces(t5: Adapter) -> None:
    """A bare mark is a token of its own, one letter may be two tokens, and the end belongs to no word."""
    text = "it's  addr_spec, ½ ﬁne 👩‍👩‍👧 (ok)"
    row = t5.tokenize([text])[0]
    pieces = t5.tokenizer.convert_ids_to_tokens(row.ids)
    assert "▁" in pieces
    assert row.offsets[-1] is None
    spans = [span for span in row.offsets if span]
    assert len(set(spans)) < len(spans)
    assert not any(text[start:end].startswith(" ") for start, end in spans)
    scores = [float(i + 1) for i in range(len(row.ids))]
    words = word_spans(text)
    expected = [
        sum(score for score, span in zip(scores, row.offsets, strict=True) if span and start <= span[0] < end)
        for start, end in words
    ]
    found = word_scores(words, row.offsets, scores)
    assert found == pytest.approx(expected)
    assert by_pieces(pieces, scores) != pytest.approx(found)


def test_trap_a_text_is_decoded_and_tokenised_again(t5: Adapter) -> None:
    """Without one word, a new tokenisation also changes tokens that nobody removed, as those of unknown letters."""
    text = "it's ½ ﬁne film (ok)"
    whole = t5.tokenize([text])[0]
    again = [
        t5.tokenize([t5.tokenizer.decode(whole.without([span]).ids, skip_special_tokens=True)])[0].ids
        for span in word_spans(text)
    ]
    assert any(ids != whole.without([span]).ids for ids, span in zip(again, word_spans(text), strict=True))

    seen: list[Encoded] = []
    likelihoods = t5.likelihoods

    def watched(encoded: Sequence[Encoded], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        seen.extend(encoded)
        return likelihoods(encoded, candidates)

    t5.likelihoods = watched  # type: ignore[method-assign]
    words = [Word(text=text[a:b], start=a, end=b, score=float(-a)) for a, b in word_spans(text)]
    faithfulness(t5, [whole], [words], [words[:2]], ["positive"], [[]])
    assert len(seen) > 5
    for row in seen:
        rest = iter(zip(whole.ids, whole.offsets, strict=True))
        assert all(pair in rest for pair in zip(row.ids, row.offsets, strict=True))  # a part of it, in its order


def test_trap_zeros_as_the_baseline(t5: Adapter) -> None:
    """RMSNorm is steep near zero: twenty steps from there miss the integral by a multiple."""
    batch = t5.encode(SENTENCES[:6], ["positive"] * 6)

    def gap() -> float:
        start, end = (t5.objective(batch)(at, *batch.rows) for at in (t5.baseline(batch), t5.embed(batch.ids)))
        found = IntegratedGradients(n_steps=20)(t5, batch).sum(-1)
        return float(((found - (end - start)).abs() / (end - start).abs()).median())

    assert gap() < 0.02
    t5.baseline = lambda batch: torch.zeros_like(t5.embed(batch.ids))  # type: ignore[method-assign]
    assert gap() > 0.2
