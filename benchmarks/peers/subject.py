"""What is explained, and by what: real texts, and a model whose weights are random: they do not change its speed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from understudy.data.docstrings import docstring_examples
from understudy.data.validate import load_split
from understudy.models.load import ModelCard, save
from understudy.models.scratch import corpus, train_tokenizer
from understudy.schemas import AttributionExample, Example, TaskSpec

__all__ = ["Subject", "make_subject"]

SMALL: dict[str, Any] = {  # T5-small
    "vocab_size": 32_128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_decoder_layers": 6,
    "num_heads": 8,
}
TINY: dict[str, Any] = {
    "vocab_size": 8_192,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
}


@dataclass(frozen=True)
class Subject:
    """`folder` holds the model and its tokenizer, for this process, the service and the peers alike."""

    folder: Path
    examples: tuple[AttributionExample, ...]
    facts: dict[str, Any]
    """What a result says of it."""


def make_subject(folder: Path, *, tiny: bool, tokenizer: Path | None, data: Path | None, count: int) -> Subject:
    """Write a model with random weights into the folder, and choose `count` texts at even distances from the data."""
    docstrings = docstring_examples() if data is None or tokenizer is None else []
    words = AutoTokenizer.from_pretrained(tokenizer) if tokenizer else _trained(docstrings)
    chosen = _spaced(load_split(data, "test")[0] if data else _of_ordinary_length(docstrings, words), count)
    shape = TINY if tiny else SMALL
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = T5Config(**shape | {"vocab_size": max(shape["vocab_size"], len(words))}, decoder_start_token_id=0)
        model = T5ForConditionalGeneration(config)
    save(model, words, TaskSpec(), ModelCard(base_model="random", recipe="none", seed=0), folder)
    inputs, outputs = ([len(words(text)["input_ids"]) for text in texts] for texts in zip(*chosen, strict=True))
    facts = {
        "model": "T5, {num_layers} + {num_decoder_layers} layers, width {d_model}, random weights".format(**shape),
        "parameters": model.num_parameters(),
        "data": f"{data.parent.name}/{data.name}" if data else "docstrings of 20 to 128 tokens",
        "tokenizer": tokenizer.name if tokenizer else "trained on the docstrings",
        "texts": count,
        "input_tokens": _span(inputs),
        "output_tokens": _span(outputs),
    }
    return Subject(folder, tuple(AttributionExample(input=text, output=answer) for text, answer in chosen), facts)


def _trained(examples: Sequence[Example]) -> PreTrainedTokenizerFast:
    texts, targets = [example.input for example in examples], [example.output for example in examples]
    return train_tokenizer("t5", corpus(texts, targets, "{input}"))


def _of_ordinary_length(examples: Sequence[Example], tokenizer: Any) -> list[Example]:
    return [example for example in examples if 20 <= len(tokenizer(example.input)["input_ids"]) <= 128]


def _spaced(examples: Sequence[Example], count: int) -> list[tuple[str, str]]:
    return [(example.input, example.output) for example in examples[:: len(examples) // count][:count]]


def _span(lengths: Sequence[int]) -> dict[str, float]:
    return {"min": min(lengths), "median": statistics.median(lengths), "max": max(lengths)}
