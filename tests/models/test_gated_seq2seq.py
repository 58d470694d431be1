"""Encoder-decoders that are read through a gate, against the ungated model that they were made of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from understudy.errors import InvalidRequest
from understudy.models.gated_seq2seq import GatedBart, GatedT5, gate_scales, gated
from understudy.models.load import ModelCard, architecture, create, load_adapter, save
from understudy.models.seq2seq import Seq2SeqAdapter
from understudy.schemas import TaskSpec
from understudy.testing import LABELS, SENTENCES, TARGETS, tiny_seq2seq

VOCABULARY = 60


def tiny_t5(**settings: Any) -> Any:
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        **settings,
    )
    return T5ForConditionalGeneration(config)


def tiny_untied_t5() -> Any:
    """As the published T5 1.1 and FLAN-T5: a head of its own."""
    model = tiny_t5(tie_word_embeddings=False)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    return model


def tiny_bart() -> Any:
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        scale_embedding=True,
        init_std=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    model = BartForConditionalGeneration(config)
    model.final_logits_bias[0, 2] = -9  # or it would write its start token, which ends a text, at once
    with torch.no_grad():
        model.model.decoder.layers[0].encoder_attn.out_proj.weight *= 50  # or what it writes would be of no text
    return model


@pytest.fixture(params=[tiny_t5, tiny_untied_t5, tiny_bart])
def plain(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return request.param().double().eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Two texts, the second one padded, and what is to be written of each."""
    draw = torch.Generator().manual_seed(1)
    ids, labels = (torch.randint(3, VOCABULARY, size, generator=draw) for size in ((2, 7), (2, 4)))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def opened(model: Any) -> Any:
    """With a gate that is open for some tokens and shut for others."""
    with torch.no_grad():
        model.get_encoder().gate.weight.normal_(std=2, generator=torch.Generator().manual_seed(2))
    return model


def test_a_fresh_gate_changes_nothing(plain: Any, batch: dict[str, torch.Tensor]) -> None:
    before = plain(**batch).logits
    model = gated(plain)
    assert torch.equal(model(**batch).logits, before)


@pytest.mark.parametrize("level", [-40.0, -3.0, 5.0])
def test_a_gate_that_is_as_open_everywhere_changes_nothing(
    plain: Any, batch: dict[str, torch.Tensor], level: float
) -> None:
    """What it has learned then is how rare reasons are, and no more."""
    before = plain(**batch).logits
    model = gated(plain)
    torch.nn.init.constant_(model.get_encoder().gate.bias, level)
    torch.testing.assert_close(model(**batch).logits, before)


def test_the_decoder_reads_each_state_times_its_scale(plain: Any, batch: dict[str, torch.Tensor]) -> None:
    """By hand: probabilities of the real tokens with a root mean square of 1."""
    inputs, mask = {name: batch[name] for name in ("input_ids", "attention_mask")}, batch["attention_mask"]
    bare = plain.get_encoder()(**inputs).last_hidden_state
    model = opened(gated(plain))
    gate = model.get_encoder().gate
    chances = torch.sigmoid(bare @ gate.weight[0] + gate.bias) * mask
    scales = torch.stack(
        [row / row[real].square().mean().sqrt() for row, real in zip(chances, mask.bool(), strict=True)]
    )
    states = BaseModelOutput(last_hidden_state=bare * scales.unsqueeze(-1))
    expected = plain(encoder_outputs=states, attention_mask=mask, labels=batch["labels"]).logits
    found = model(**batch)
    torch.testing.assert_close(found.logits, expected)
    torch.testing.assert_close(found.gate_logits[mask.bool()], torch.logit(chances[mask.bool()]))
    assert (found.gate_logits[~mask.bool()] == torch.finfo(torch.float64).min).all()
    assert scales.max() / scales[mask.bool()].min() > 2  # or nothing would be tested


def test_states_that_are_handed_over_are_gated_once(plain: Any, batch: dict[str, torch.Tensor]) -> None:
    model = opened(gated(plain))
    mask, labels = batch["attention_mask"], batch["labels"]
    encoded = model.get_encoder()(input_ids=batch["input_ids"], attention_mask=mask)
    whole = model(**batch)
    for states in (encoded, BaseModelOutput(last_hidden_state=encoded.last_hidden_state)):
        found = model(encoder_outputs=states, attention_mask=mask, labels=labels)
        assert torch.equal(found.logits, whole.logits)
    assert torch.equal(encoded.gate_logits, whole.gate_logits)
    embeds = model.get_encoder().get_input_embeddings()(batch["input_ids"])
    assert torch.equal(model(inputs_embeds=embeds, attention_mask=mask, labels=labels).logits, whole.logits)


def test_padding_changes_no_scale() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    alone = gate_scales(logits, torch.ones(1, 3, dtype=torch.bool))
    wide = gate_scales(torch.nn.functional.pad(logits, (1, 2), value=9.0), torch.tensor([[0, 1, 1, 1, 0, 0]]).bool())
    torch.testing.assert_close(wide, torch.nn.functional.pad(alone, (1, 2)))
    assert alone.square().mean().item() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scales_stay_finite_where_all_gates_are_shut(dtype: torch.dtype) -> None:
    logits = torch.tensor([[-1e4, -1e4, -1e4], [-1e4, 1e4, -1e4], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    real = torch.tensor([[1, 1, 1], [1, 1, 1], [0, 0, 0]]).bool()
    scales = gate_scales(logits, real)
    expected = torch.tensor([[1.0, 1.0, 1.0], [0.0, 3**0.5, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(scales, expected, check_dtype=False)
    (gradients,) = torch.autograd.grad(scales.sum(), logits)
    assert gradients.isfinite().all()


def test_both_losses_reach_the_gate(plain: Any, batch: dict[str, torch.Tensor]) -> None:
    model = opened(gated(plain)).train()
    output = model(**batch)
    weight = model.get_encoder().gate.weight
    for loss in (output.loss, output.gate_logits[batch["attention_mask"].bool()].sum()):
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert gradient.abs().max() > 0


def test_mixed_precision_trains_the_gate_of_a_padded_batch(plain: Any, batch: dict[str, torch.Tensor]) -> None:
    model = opened(gated(plain)).train()
    padded = {**batch, "attention_mask": batch["attention_mask"].clone()}
    padded["attention_mask"][0, -1] = 0
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**padded)
    output.loss.backward()
    assert output.loss.isfinite()
    assert model.get_encoder().gate.weight.grad.isfinite().all()


def test_what_is_written_is_written_through_the_gate(plain: Any, batch: dict[str, torch.Tensor]) -> None:
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    before = plain.generate(**inputs, max_new_tokens=6)
    model = gated(plain)
    assert torch.equal(model.generate(**inputs, max_new_tokens=6), before)
    written = opened(model).generate(**inputs, max_new_tokens=6)
    assert not torch.equal(written, before)
    decoder = written[:, :1]
    for step in range(1, written.shape[1]):
        following = model(**inputs, decoder_input_ids=decoder).logits[:, -1].argmax(-1)
        ended = (decoder[:, 1:] == model.config.eos_token_id).any(-1)
        assert torch.equal(following[~ended], written[~ended, step])
        decoder = written[:, : step + 1]


def test_nothing_but_the_gate_is_new(plain: Any) -> None:
    kept = copy.deepcopy(plain.state_dict())
    tied = plain.lm_head.weight is plain.get_input_embeddings().weight
    model = gated(plain)
    assert model.num_parameters() == plain.num_parameters() + 17
    assert {name for name in model.state_dict() if name not in kept} == {
        name for name in model.state_dict() if name.endswith(("encoder.gate.weight", "encoder.gate.bias"))
    }
    assert all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert model.get_encoder().get_input_embeddings().weight is model.get_input_embeddings().weight
    assert not model.training
    assert gated(model) is model


def test_a_saved_gate_comes_back(plain: Any, batch: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model = opened(gated(plain))
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert architecture(config) == "seq2seq"
    again, found = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True, dtype=torch.float64)
    assert isinstance(again, GatedT5 | GatedBart)
    assert not found["missing_keys"]
    assert torch.equal(again.eval()(**batch).logits, model(**batch).logits)


def test_a_family_without_a_gate_is_refused() -> None:
    config = MT5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(InvalidRequest, match="a MT5ForConditionalGeneration cannot have a gate") as caught:
        gated(MT5ForConditionalGeneration(config))
    assert caught.value.param == "model"


@pytest.fixture(scope="module", params=["scratch", "pretrained"])
def student(request: pytest.FixtureRequest, folder_of: Callable[[str], Path]) -> dict[str, Any]:
    """The same student with a gate and without, as `create` makes them."""
    ref = "scratch:t5-1x16" if request.param == "scratch" else str(folder_of("seq2seq"))

    def made(pooling: Any) -> Any:
        return create(ref, store=None, task=TaskSpec(), texts=SENTENCES, targets=TARGETS, seed=4, pooling=pooling)

    return {"gate": made("gate"), "mean": made("mean")}


def test_arms_with_a_gate_and_without_start_from_the_same_weights(student: dict[str, Any]) -> None:
    (model, _), (plain, _) = student["gate"], student["mean"]
    assert isinstance(model, GatedT5)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in plain.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_adapter_reads_through_the_gate_everywhere(student: dict[str, Any], tmp_path: Path) -> None:
    """Scores, likelihoods, attention and answers of a loaded student, against its own forward pass."""
    model, tokenizer = student["gate"]
    save(opened(model), tokenizer, TaskSpec(), ModelCard(base_model="x", recipe="rationale_gate", seed=0), tmp_path)
    adapter = load_adapter(str(tmp_path), dtype="float64")
    assert isinstance(adapter, Seq2SeqAdapter)
    assert isinstance(adapter.model, GatedT5)
    ids = tokenizer(SENTENCES[0], return_tensors="pt")["input_ids"]
    labels = tokenizer(text_target="positive", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = adapter.model(input_ids=ids, labels=labels).logits[0]
    steps = range(labels.shape[1])
    likelihood = logits.log_softmax(-1)[steps, labels[0]].sum().item()
    assert adapter.log_likelihoods(SENTENCES[:2], [["positive"]] * 2)[0] == pytest.approx([likelihood], rel=1e-9)
    batch = adapter.encode(SENTENCES[:2], ["positive", "the plot is thin"])
    scores = adapter.token_scores(adapter.embed(batch.ids), batch.mask, batch.labels)[0]
    assert scores[: labels.shape[1] - 1].tolist() == pytest.approx(logits[steps, labels[0]][:-1].tolist(), rel=1e-9)
    assert adapter.attention(batch) is not None
    answers = adapter.answers(SENTENCES[:2], labels=LABELS)
    assert all(sum((answer.probabilities or {}).values()) == pytest.approx(1) for answer in answers)


def test_a_published_gate_is_one_of_the_tiny_models(tmp_path: Path) -> None:
    assert isinstance(load_adapter(str(tiny_seq2seq(tmp_path / "model", pooling="gate"))).model, GatedT5)
