"""What an answer depends on, as 16 hex digits: equal fingerprints and equal questions give equal answers."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from weakref import WeakKeyDictionary

import torch

from understudy.models.base import ANSWER_TOKENS, Adapter

__all__ = ["fingerprint"]

_HASHES: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def fingerprint(adapter: Adapter) -> str:
    """A hash over weights, tokenizer, configuration, template, labels, window, temperature, and the answers' form and
    length.

    The weights are read once for each model in memory: whoever trains on after asking must save and load first.
    """
    if adapter.model not in _HASHES:
        _HASHES[adapter.model] = _hash_model(adapter.model, adapter.tokenizer)
    parts = [_HASHES[adapter.model], adapter.task.model_dump_json(), str(adapter.max_tokens)]
    if adapter.form != "label":  # the fingerprints of before there were forms stay what they were
        parts.append(adapter.form)
    if adapter.temperature != 1:
        parts.append(f"temperature {adapter.temperature!r}")
    if adapter.answer_tokens != ANSWER_TOKENS:
        parts.append(f"answers {adapter.answer_tokens}")
    return hashlib.sha256("\n".join(parts).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _hash_model(model: Any, tokenizer: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    # Padding and truncation are state of the last call, not of the tokenizer.
    kept = {name: value for name, value in vocabulary.items() if name not in ("padding", "truncation")}
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    digest.update(json.dumps([kept, config], sort_keys=True, default=str).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
