"""Encoder-decoders with a gate on each input token: the decoder reads the encoder's states through it.

One linear layer and a sigmoid give each token the probability that it belongs to a reason, and its state is scaled by
that. The *encoder* does the scaling, so that whoever asks it for states reads them gated, and gated once: the model
itself, `generate`, an adapter that hands them to the decoder.

The scales of a text's real tokens are its probabilities with a root mean square of 1. What counts is then which tokens
are more open than others: a gate that has only learned how rare reasons are changes nothing, and neither does a fresh
one, which starts at 0 and so half open everywhere: the first answer is the ungated model's. And the states keep the
energy that the decoder was trained on (T5 normalises by the root mean square too). With a mean of 1 the few open tokens
of a long text would be scaled by up to T, and the attention's logits with them; the root mean square bounds it by the
root of T. With no normalisation a gate at its base rate of 5 % would leave the decoder a twentieth of its input.

T5 (all its versions) and BART. Another encoder-decoder needs three small classes, as at the end of this module: its
encoder must take `attention_mask` (B, T) and answer with `last_hidden_state`. Knows nothing of rationales or losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.bart.modeling_bart import BartEncoder
from transformers.models.t5.modeling_t5 import T5Stack

from understudy.errors import InvalidRequest
from understudy.models.gate import Gate, WithGate

__all__ = ["GatedBart", "GatedEncoderOutput", "GatedSeq2SeqOutput", "GatedT5", "gate_scales", "gated"]

_RECORDED = ("output_attentions", "output_hidden_states")


@dataclass
class GatedEncoderOutput(BaseModelOutput):
    """An encoder's output whose `last_hidden_state` is gated; `gate_logits` (B, T), padding at the dtype's minimum."""

    gate_logits: Tensor | None = None


@dataclass
class GatedSeq2SeqOutput(Seq2SeqLMOutput):
    """`gate_logits` (B, T) as the encoder gave them; None where only states were handed to the decoder."""

    gate_logits: Tensor | None = None


def gate_scales(logits: Tensor, real: Tensor) -> Tensor:
    """What each token's state is multiplied by: (B, T), (B, T) -> (B, T); 0 for padding.

    Proportional to the gates' probabilities, with a root mean square of 1 over the real tokens of a row.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # The softmax of their logarithms is the probabilities up to a factor, and stays finite where all gates are shut.
    shares = nn.functional.logsigmoid(logits).masked_fill(~real, torch.finfo(logits.dtype).min).softmax(-1) * real
    energy = shares.square().sum(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).tiny)  # a row may be all padding
    return shares * (real.sum(-1, keepdim=True) / energy).sqrt()


class _GatedEncoder(WithGate):
    """Stands before the encoder's own class, whose states it gates."""

    gate: Gate

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> GatedEncoderOutput:
        """Encode (B, T) ids or (B, T, D) embeddings; a missing mask means that nothing is padding."""
        encoded = super().forward(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )
        states = encoded.last_hidden_state  # (B, T, D)
        real = states.new_ones(states.shape[:2]) if attention_mask is None else attention_mask
        logits = self.gate(states)  # (B, T), in mixed precision narrower than the states
        logits = logits.masked_fill(real == 0, torch.finfo(logits.dtype).min)
        scales = gate_scales(logits, real != 0).to(states.dtype)
        return GatedEncoderOutput(
            last_hidden_state=states * scales.unsqueeze(-1),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            gate_logits=logits,
        )


class _GatedModel(PreTrainedModel):
    """Stands before the model's own class, whose output it adds the gates to."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> GatedSeq2SeqOutput:
        """As the ungated model's; `encoder_outputs` come from this model's encoder and are gated already."""
        if encoder_outputs is None:
            recorded = {name: kwargs[name] for name in _RECORDED if name in kwargs}
            encoder_outputs = self.get_encoder()(
                input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **recorded
            )
        output = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            encoder_outputs=encoder_outputs,
            **kwargs,
        )
        return GatedSeq2SeqOutput(**output, gate_logits=getattr(encoder_outputs, "gate_logits", None))


def gated(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with a gate that is half open everywhere, which answers as it did. Shares the weights.

    A gated model stays as it is. Raises InvalidRequest for a family that has none.
    """
    if isinstance(model, _GatedModel):
        return model
    if type(model) not in _FAMILIES:
        known = ", ".join(sorted(family.__name__ for family in _FAMILIES))
        raise InvalidRequest(
            f"a {type(model).__name__} cannot have a gate on its encoder: choose a student among {known}", param="model"
        )
    kind = _FAMILIES[type(model)]
    settings = {
        name: value for name, value in model.config.to_dict().items() if name not in ("model_type", "architectures")
    }
    with torch.device("meta"):
        other = kind(kind.config_class(**settings))
    encoder = model.get_encoder()
    _adopt(other, model, encoder)
    other.get_encoder().gate = Gate(model.config.hidden_size).to(model.device, model.dtype)
    other.generation_config = model.generation_config
    return other.train(model.training)


def _adopt(new: nn.Module, old: nn.Module, encoder: nn.Module) -> None:
    """Every part of the old model in its place, so that tied weights stay tied; only what holds the encoder is new."""
    for name, value in [*old.named_parameters(recurse=False), *old.named_buffers(recurse=False)]:
        setattr(new, name, value)
    for name, part in old.named_children():
        if any(one is encoder for one in part.modules()):
            _adopt(getattr(new, name), part, encoder)
        else:
            setattr(new, name, part)


@strict
class GatedT5Config(T5Config):
    model_type = "understudy-gated-t5"


class GatedT5Encoder(_GatedEncoder, T5Stack):
    config_class = GatedT5Config

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.gate = Gate(config.d_model)
        self.post_init()


class GatedT5(_GatedModel, T5ForConditionalGeneration):
    config_class = GatedT5Config

    def __init__(self, config: GatedT5Config) -> None:
        super().__init__(config)
        self.encoder = GatedT5Encoder(self.get_encoder().config)
        self.post_init()


@strict
class GatedBartConfig(BartConfig):
    model_type = "understudy-gated-bart"


class GatedBartEncoder(_GatedEncoder, BartEncoder):
    config_class = GatedBartConfig

    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        self.gate = Gate(config.d_model)
        self.post_init()


class GatedBart(_GatedModel, BartForConditionalGeneration):
    config_class = GatedBartConfig

    def __init__(self, config: GatedBartConfig) -> None:
        super().__init__(config)
        self.model.encoder = GatedBartEncoder(config)
        self.post_init()


_FAMILIES: dict[type, Any] = {T5ForConditionalGeneration: GatedT5, BartForConditionalGeneration: GatedBart}

for _family in _FAMILIES.values():
    AutoConfig.register(_family.config_class.model_type, _family.config_class)
    AutoModelForSeq2SeqLM.register(_family.config_class, _family)
