"""An encoder with a pooled sentence vector and a linear head: every classifier student, in every arm of a job.

Arms differ by their recipe only, so all use this class. With `pooling="mean"` the sentence vector is the mean of the
hidden states. With `"gate"` each token gets a probability that it belongs to a reason, and the mean is weighted by it
(rationale-augmented convolutional networks, Zhang, Marshall and Wallace 2016). With `"tags"` there is such a
probability too, as a second task: the label is read from the plain mean. Knows nothing of tokenizers, of rationales or
of losses other than the cross-entropy of its label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import ModelOutput

from understudy.models.gate import Gate, WithGate

__all__ = ["EncoderClassifier", "EncoderClassifierConfig", "EncoderClassifierOutput", "Pooling", "drop_pooler"]

Pooling = Literal["mean", "gate", "tags"]


@strict
class EncoderClassifierConfig(PreTrainedConfig):
    """`encoder` is the configuration of any encoder that AutoModel knows; `num_labels` sets the width of the head."""

    model_type = "understudy-encoder-classifier"
    sub_configs_defaults = {"encoder": SubConfigSpec(config_class=AutoConfig, model_type="bert")}  # noqa: RUF012

    encoder: PreTrainedConfig | dict[str, Any] | None = None
    pooling: Pooling = "mean"
    dropout: float = 0.1

    @property
    def hidden_size(self) -> int:
        return int(self.encoder.hidden_size)  # type: ignore[union-attr]


@dataclass
class EncoderClassifierOutput(ModelOutput):
    """`gate_logits` are one logit a token, padding at the dtype's minimum; None where tokens have none.

    `attentions` are the encoder's, where they were asked for: (B, H, T, T) a layer.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None  # (B, L)
    gate_logits: Tensor | None = None  # (B, T)
    attentions: tuple[Tensor, ...] | None = None


def drop_pooler(encoder: Any) -> Any:
    """Without the layer over the first token that BERT-like encoders end with: nothing here would ever train it."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder


class EncoderClassifier(WithGate):
    """Reads a label from the mean, plain or gated, of an encoder's last hidden states."""

    config_class = EncoderClassifierConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: EncoderClassifierConfig) -> None:
        super().__init__(config)
        self.encoder = drop_pooler(AutoModel.from_config(config.encoder))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden_size, config.num_labels)
        self.gate = Gate(config.hidden_size) if config.pooling != "mean" else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> EncoderClassifierOutput:
        """Classify (B, T) ids or (B, T, D) embeddings; a missing mask means that nothing is padding."""
        encoded = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )
        hidden = encoded.last_hidden_state  # (B, T, D)
        real = (
            hidden.new_ones(hidden.shape[:2]) if attention_mask is None else attention_mask.to(hidden.dtype)
        )  # (B, T)
        gate_logits = None
        weights = real
        if self.gate is not None:
            gate_logits = self.gate(hidden)  # (B, T)
            if self.config.pooling == "gate":
                weights = torch.sigmoid(gate_logits) * real
            gate_logits = gate_logits.masked_fill(real == 0, torch.finfo(gate_logits.dtype).min)
        # The clamp only matters where every gate is shut or a row is all padding; 0 / 0 would poison the batch.
        total = weights.sum(1, keepdim=True).clamp_min(torch.finfo(hidden.dtype).tiny)
        pooled = (weights.unsqueeze(-1) * hidden).sum(1) / total  # (B, D)
        logits = self.head(self.dropout(pooled))  # (B, L)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        attentions = getattr(encoded, "attentions", None)
        return EncoderClassifierOutput(loss=loss, logits=logits, gate_logits=gate_logits, attentions=attentions)


AutoConfig.register(EncoderClassifierConfig.model_type, EncoderClassifierConfig)
AutoModel.register(EncoderClassifierConfig, EncoderClassifier)
AutoModelForSequenceClassification.register(EncoderClassifierConfig, EncoderClassifier)
