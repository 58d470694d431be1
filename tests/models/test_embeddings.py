"""Gradients are taken at embeddings: the model must answer to them as it answers to the text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PegasusConfig,
    PegasusForConditionalGeneration,
)

from understudy.attribution.attribute import attribute
from understudy.errors import ModelError
from understudy.models.embeddings import embed
from understudy.models.load import adapt, load_adapter
from understudy.models.scratch import corpus, train_tokenizer
from understudy.schemas import AttributionExample, AttributionOptions, TaskSpec
from understudy.testing import SENTENCES, TARGETS, tiny_causal, tiny_classifier, tiny_seq2seq

SIZE = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "init_std": 0.3,
    "forced_eos_token_id": None,
}


@pytest.mark.parametrize(
    ("config", "family"),
    [
        (BartConfig, BartForConditionalGeneration),
        (MarianConfig, MarianMTModel),
        (PegasusConfig, PegasusForConditionalGeneration),
    ],
)
def test_embeddings_are_scaled_as_the_model_scales_them(config: Any, family: Any) -> None:
    """Some do it in the table that they look up, some behind it, and those not for embeddings that they are given."""
    tokenizer = train_tokenizer("t5", corpus(SENTENCES, TARGETS, "{input}"))
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    start = {"decoder_start_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    shape = config(
        vocab_size=len(tokenizer), decoder_vocab_size=len(tokenizer), scale_embedding=True, **SIZE, **ends, **start
    )
    adapter = adapt(family(shape), tokenizer, TaskSpec())
    batch = adapter.encode(SENTENCES[:3], TARGETS[:3])
    with torch.no_grad():
        found = adapter.score(embed(adapter.model, batch.ids), batch.mask, batch.labels)
        labels = batch.labels.masked_fill(~adapter.own(batch.labels), -100)
        logits = adapter.model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            decoder_input_ids=adapter.model.prepare_decoder_input_ids_from_labels(batch.labels),
        ).logits
    right = torch.stack(
        [
            row[own != -100].gather(-1, own[own != -100].unsqueeze(-1)).mean()
            for row, own in zip(logits, labels, strict=True)
        ]
    )
    torch.testing.assert_close(found, right)


@pytest.mark.parametrize("make", [tiny_seq2seq, tiny_causal, tiny_classifier])
def test_a_model_that_answers_otherwise_to_embeddings_is_not_explained(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(make(tmp_path))
    adapter, other = load_adapter(folder), load_adapter(folder)
    asked = AttributionOptions(target="gold", predict=False)
    examples = [AttributionExample(input=SENTENCES[0], output=TARGETS[0])]
    assert attribute(adapter, examples, asked)[0].words
    reader = other.model.get_encoder() if other.architecture == "seq2seq" else other.model
    table = reader.get_input_embeddings()
    answer = reader.forward

    def of_ids(*args: Any, input_ids: Any = None, **kwargs: Any) -> Any:
        """As where each layer has embeddings of the ids of its own."""
        if input_ids is not None:
            kwargs["inputs_embeds"] = 3 * table(input_ids) + 1
        return answer(*args, **kwargs)

    monkeypatch.setattr(reader, "forward", of_ids)
    with pytest.raises(ModelError, match="answers otherwise to the embeddings") as caught:
        attribute(other, examples, asked)
    assert caught.value.param == "model"
