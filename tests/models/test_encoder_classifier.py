from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, BertConfig

from understudy.models.encoder_classifier import EncoderClassifier, EncoderClassifierConfig, Pooling

IDS = torch.tensor([[1, 5, 6, 7, 2], [1, 9, 2, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def make(pooling: Pooling) -> EncoderClassifier:
    torch.manual_seed(0)
    encoder = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = EncoderClassifierConfig(encoder=encoder, pooling=pooling, id2label={0: "a", 1: "b", 2: "c"})
    return EncoderClassifier(config).double().eval()


@pytest.fixture(params=["mean", "gate"])
def model(request: pytest.FixtureRequest) -> EncoderClassifier:
    return make(request.param)


def test_mean_pooling_is_the_mean_over_real_tokens() -> None:
    model = make("mean")
    hidden = model.encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state
    expected = model.head(torch.stack([hidden[0].mean(0), hidden[1, :3].mean(0)]))
    out = model(input_ids=IDS, attention_mask=MASK)
    torch.testing.assert_close(out.logits, expected)
    assert out.gate_logits is None


def test_a_gate_weighs_each_real_token_by_its_probability() -> None:
    model = make("gate")
    torch.nn.init.normal_(model.gate.weight)
    hidden = model.encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state
    weights = torch.sigmoid(model.gate(hidden)) * MASK
    expected = model.head((weights.unsqueeze(-1) * hidden).sum(1) / weights.sum(1, keepdim=True))
    out = model(input_ids=IDS, attention_mask=MASK)
    torch.testing.assert_close(out.logits, expected)
    assert out.gate_logits.shape == IDS.shape
    assert torch.sigmoid(out.gate_logits)[MASK == 0].max() == 0
    assert torch.sigmoid(out.gate_logits)[MASK == 1].min() > 0


@pytest.mark.parametrize("pooling", ["gate", "tags"])
def test_a_model_with_gates_begins_as_the_one_without_of_the_same_seed(pooling: Pooling) -> None:
    gated, plain = make(pooling), make("mean")
    drawn = gated.state_dict()
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(drawn[name], weight, rtol=0, atol=0)
    torch.testing.assert_close(gated(IDS, MASK).logits, plain(IDS, MASK).logits)


def test_shut_gates_do_not_poison_the_batch() -> None:
    model = make("gate")
    torch.nn.init.constant_(model.gate.bias, -1e9)
    assert model(IDS, MASK).logits.isfinite().all()


def test_embeddings_may_stand_in_for_ids(model: EncoderClassifier) -> None:
    embeds = model.get_input_embeddings()(IDS)
    torch.testing.assert_close(model(inputs_embeds=embeds, attention_mask=MASK).logits, model(IDS, MASK).logits)


def test_the_loss_is_the_cross_entropy_of_the_labels(model: EncoderClassifier) -> None:
    out = model(IDS, MASK, labels=torch.tensor([2, 0]))
    expected = -out.logits.log_softmax(-1)[[0, 1], [2, 0]].mean()
    torch.testing.assert_close(out.loss, expected)


def test_a_saved_model_comes_back_through_the_auto_classes(model: EncoderClassifier, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path).encoder, BertConfig)
    for loader in (AutoModel, AutoModelForSequenceClassification):
        back = loader.from_pretrained(tmp_path, dtype="float64").eval()
        assert isinstance(back, EncoderClassifier)
        assert back.config.pooling == model.config.pooling
        torch.testing.assert_close(back(IDS, MASK).logits, model(IDS, MASK).logits)


def test_every_weight_gets_a_gradient_from_the_label_loss(model: EncoderClassifier) -> None:
    model(IDS, MASK, labels=torch.tensor([2, 0])).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
