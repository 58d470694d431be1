"""Tiny real models and fakes that obey the contracts, for tests and for trying things out. No downloads.

The models are real `transformers` models of width 16 with tokenizers trained on the sentences below: they answer
nonsense, fast and always the same. Torch is imported when a model is made, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from understudy.schemas import TaskSpec

if TYPE_CHECKING:
    from understudy.models.load import ModelCard

__all__ = ["LABELS", "SENTENCES", "TARGETS", "tiny_causal", "tiny_classifier", "tiny_seq2seq"]

LABELS = ("negative", "neutral", "positive")

SENTENCES = (
    "The plot is thin, but the acting is wonderful and the music is better still.",
    "A dull film: two hours of rain, one joke, and an ending that nobody wanted.",
    "Opens a socket and waits until the server answers or the timeout is over.",
    "Return the addr_spec of the address; it doesn't include the display name.",
    "The thread holds the lock until every waiting thread has been notified.",
    "It is a film about a teacher, a student and what the student never learned.",
    "Reads the next line from the file, or an empty string at the end of the file.",
    "I love the first half, I hate the second half, and I forgot the middle.",
    "Nothing happens for an hour and then everything happens at once.",
    "Parse the date in the given format and return the number of seconds.",
    "The best meal of my life, and the waiter remembered my name!",
    "The room was cold, the towels were wet and the window did not close.",
)
TARGETS = ("positive", "negative", "neutral", "negative", "neutral", "neutral") * 2


def tiny_seq2seq(folder: Path, *, template: str = "{input}", seed: int = 0, ref: str = "scratch:t5-1x16") -> Path:
    """A gated-GELU T5 that writes text."""
    return _publish(folder, ref, TaskSpec(template=template), seed)


def tiny_causal(
    folder: Path, *, template: str = "{input}", seed: int = 0, family: Literal["gpt2", "llama"] = "gpt2"
) -> Path:
    """A GPT-2, or a Llama (rotary positions, RMS norm) over the same byte-level tokenizer."""
    task = TaskSpec(template=template)
    if family == "gpt2":
        return _publish(folder, "scratch:gpt2-1x16", task, seed)
    return _publish_llama(folder, task, seed)


def tiny_classifier(
    folder: Path,
    *,
    labels: Sequence[str] = LABELS,
    template: str = "{input}",
    seed: int = 0,
    pooling: Literal["mean", "gate"] = "mean",
    kind: Literal["understudy", "bert"] = "understudy",
) -> Path:
    """An EncoderClassifier, or with `kind="bert"` the hub's own BertForSequenceClassification."""
    task = TaskSpec(kind="classification", labels=tuple(labels), template=template)
    if kind == "understudy":
        return _publish(folder, "scratch:bert-1x16", task, seed, pooling)
    return _publish_bert(folder, task, seed)


def _card(ref: str, seed: int, reasons: Literal["gate", "saliency"] = "saliency") -> ModelCard:
    from understudy.models.load import ModelCard

    return ModelCard(base_model=ref, recipe="finetune", seed=seed, reasons=reasons, max_tokens=64)


def _publish(folder: Path, ref: str, task: TaskSpec, seed: int, pooling: Literal["mean", "gate"] = "mean") -> Path:
    from understudy.models.load import create, save

    targets = task.labels or TARGETS
    model, tokenizer = create(ref, store=None, task=task, texts=SENTENCES, targets=targets, seed=seed, pooling=pooling)
    save(model, tokenizer, task, _card(ref, seed, "gate" if pooling == "gate" else "saliency"), folder)
    return folder


def _publish_llama(folder: Path, task: TaskSpec, seed: int) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from understudy.models.load import save
    from understudy.models.scratch import corpus, train_tokenizer

    tokenizer = train_tokenizer("gpt2", corpus(SENTENCES, TARGETS, task.template))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    save(model, tokenizer, task, _card("tiny-llama", seed), folder)
    return folder


def _publish_bert(folder: Path, task: TaskSpec, seed: int) -> Path:
    import torch
    from transformers import BertForSequenceClassification

    from understudy.models.load import save
    from understudy.models.scratch import build_config, corpus, parse_scratch, train_tokenizer

    tokenizer = train_tokenizer("bert", corpus(SENTENCES, task.labels, task.template))
    config = build_config(parse_scratch("scratch:bert-1x16"), tokenizer)
    config.id2label = dict(enumerate(task.labels))
    config.label2id = {label: index for index, label in config.id2label.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
    save(model, tokenizer, task, _card("tiny-bert", seed), folder)
    return folder
