from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import BartConfig, BartForConditionalGeneration

from understudy.models.base import Adapter
from understudy.models.load import ModelCard, load_adapter, save
from understudy.models.scratch import corpus, train_tokenizer
from understudy.schemas import TaskSpec
from understudy.testing import SENTENCES, TARGETS, tiny_causal, tiny_classifier, tiny_seq2seq


def tiny_gated(folder: Path) -> Path:
    """A T5 that is read through a gate, which is open for some tokens and shut for others."""
    tiny_seq2seq(folder, pooling="gate", template="Review: {input}")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.gate.weight"] = torch.randn(weights["encoder.gate.weight"].shape, generator=torch.manual_seed(0))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def tiny_bart(folder: Path) -> Path:
    """Another family of encoder-decoders: learned positions, a start token in texts and targets, scaled embeddings."""
    task = TaskSpec()
    tokenizer = train_tokenizer("gpt2", corpus(SENTENCES, TARGETS, task.template))
    start, padding = tokenizer.bos_token_id, tokenizer.pad_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", start)]
    )
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=512,
        scale_embedding=True,
        init_std=0.1,
        pad_token_id=padding,
        bos_token_id=start,
        eos_token_id=start,
        decoder_start_token_id=start,
        forced_eos_token_id=None,
    )
    torch.manual_seed(0)
    model = BartForConditionalGeneration(config)
    save(model, tokenizer, task, ModelCard(base_model="bart", recipe="finetune", seed=0, max_tokens=64), folder)
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "t5": tiny_seq2seq,
    "t5-gate": tiny_gated,
    "t5-template": lambda folder: tiny_seq2seq(folder, template="Review: {input} Sentiment:"),
    "gpt2": lambda folder: tiny_causal(folder, template="Review: {input}\nSentiment:"),
    "llama": lambda folder: tiny_causal(folder, family="llama"),
    "encoder-mean": tiny_classifier,
    "encoder-gate": lambda folder: tiny_classifier(folder, pooling="gate", template="Review: {input}"),
    "bart": tiny_bart,
    "bert": lambda folder: tiny_classifier(folder, kind="bert"),
}


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Adapter]:
    """Every kind of adapter by name, in float64 so that equality can be asked for; each made once."""
    made: dict[str, Adapter] = {}

    def get(name: str) -> Adapter:
        if name not in made:
            folder = MAKERS[name](tmp_path_factory.mktemp("models") / name)
            made[name] = load_adapter(str(folder), dtype="float64")
        return made[name]

    return get


@pytest.fixture(params=sorted(MAKERS))
def adapter(request: pytest.FixtureRequest, adapters: Callable[[str], Adapter]) -> Adapter:
    return adapters(request.param)
