"""The adapter of decoder-only models (Llama, Qwen, GPT): the target follows the text in one sequence.

Prompts are padded on the left, so that all targets end in the same column and only the last logits are computed; the
position ids come from the mask, so that either side would do. The target's own tokens are scored and never attributed;
the prompt's last token predicts the first of them. Where a sequence does not fit, the prompt is cut, never the target.
The end-of-sequence token is no part of a score; it does belong to the likelihood of a candidate (see `seq2seq`).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from understudy.batching import plan_batches
from understudy.errors import ModelError
from understudy.models.base import Adapter, Batch
from understudy.models.likelihood import (
    IGNORE,
    GreedySteps,
    mean_target_logit,
    path_probabilities,
    sum_log_probabilities,
)
from understudy.models.text import Encoded, Template, bounded_target, clean, pad, tokenize
from understudy.schemas import TaskSpec

__all__ = ["CausalAdapter", "prompt_template", "target_ids"]

_ANCHOR = "a"
"""A target is tokenised behind it and without it: a SentencePiece tokenizer adds its own space at a text's start."""


def prompt_template(template: str) -> Template:
    """The template without spaces at its end, where the target's own leading space belongs."""
    parsed = Template.parse(template)
    return Template(parsed.prefix, parsed.suffix.rstrip(" "))


def target_ids(tokenizer: Any, template: str, target: str) -> list[int]:
    """The tokens of a target as it follows the prompt: behind a space, or at the start of a line."""
    line = prompt_template(template).suffix.endswith("\n")
    before = _ANCHOR + "\n" if line else _ANCHOR
    text = before + ("" if line else " ") + clean(target).strip()
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return [token for token, (_, end) in spans if end > len(before)]


class CausalAdapter(Adapter):
    architecture = "causal"

    def __init__(self, model: Any, tokenizer: Any, task: TaskSpec, max_tokens: int) -> None:
        super().__init__(model, tokenizer, task, max_tokens)
        self._accepted = set(inspect.signature(model.forward).parameters)

    @property
    def neutral_id(self) -> int:
        """Padding where there is some, else the end of a text; a decoder is never trained on silence."""
        pad_id = self.tokenizer.pad_token_id
        return int(min(self.end_ids, default=0) if pad_id is None else pad_id)

    def tokenize(self, texts: Sequence[str], reserve: int = 1) -> list[Encoded]:
        """Prompts that leave `reserve` tokens of the window to the target; an empty one becomes the start token."""
        template = prompt_template(self.task.template)
        rows = tokenize(self.tokenizer, template, texts, self.max_tokens - reserve)
        return [row if row.ids else Encoded([self._start_id()], [None]) for row in rows]

    def encode(self, texts: Sequence[str], targets: Sequence[str]) -> Batch:
        answers = [self._target(target) or self._target(target, ended=True) for target in targets]
        prompts = [self.tokenize([text], len(answer))[0] for text, answer in zip(texts, answers, strict=True)]
        ids, mask, labels = self._stack([row.ids for row in prompts], answers)
        width = ids.shape[1]
        return Batch(
            texts=tuple(texts),
            ids=ids,
            mask=mask,
            labels=labels,
            offsets=tuple(
                (*[None] * (width - len(row.ids) - len(answer)), *row.offsets, *[None] * len(answer))
                for row, answer in zip(prompts, answers, strict=True)
            ),
            truncated=tuple(row.truncated for row in prompts),
        )

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def score(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        logits, scored = self._logits(mask, labels, inputs_embeds=embeds)
        return mean_target_logit(logits, scored)

    @torch.inference_mode()
    def log_likelihoods(self, texts: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        targets = {text: self._target(text, ended=True) for row in candidates for text in row}
        pairs = [(i, targets[text]) for i, row in enumerate(candidates) for text in row]
        prompts = [  # one cut for all candidates of a text, so that they are compared behind the same prompt
            self.tokenize([text], max((len(targets[name]) for name in row), default=1))[0]
            for text, row in zip(texts, candidates, strict=True)
        ]
        values: dict[int, float] = {}
        for batch in plan_batches([len(prompts[i].ids) + len(ids) for i, ids in pairs], self.max_padded_tokens):
            chosen = [pairs[k] for k in batch]
            ids, mask, labels = self._stack([prompts[i].ids for i, _ in chosen], [target for _, target in chosen])
            logits, scored = self._logits(mask, labels, input_ids=ids)
            values |= zip(batch, sum_log_probabilities(logits, scored).tolist(), strict=True)
        found: list[list[float]] = [[] for _ in texts]
        for k, (i, _) in enumerate(pairs):
            found[i].append(values[k])
        return found

    @torch.inference_mode()
    def generate(
        self, texts: Sequence[str], max_new_tokens: int = 64, template: str | None = None
    ) -> list[tuple[str, float]]:
        max_new_tokens = min(max_new_tokens, self.max_tokens // 2)
        rows = self.with_template(template).tokenize(texts, max_new_tokens)
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self.neutral_id,
        )
        found: dict[int, tuple[str, float]] = {}
        for batch in plan_batches([len(row.ids) for row in rows], self.max_padded_tokens):
            ids, mask, _ = self._stack([rows[i].ids for i in batch], [[]] * len(batch))
            greedy = GreedySteps()
            written = self.model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=[greedy]
            )
            answers = written[:, ids.shape[1] :]
            texts_ = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
            chances = path_probabilities(greedy.steps, answers, self.end_ids)
            found |= {i: (text.strip(), chance) for i, text, chance in zip(batch, texts_, chances, strict=True)}
        return [found[i] for i in range(len(texts))]

    def _logits(self, mask: Tensor, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The logits from the one that predicts the first target column on, and the labels that they predict."""
        first = int(labels.ne(IGNORE).any(0).nonzero()[0])
        keep = labels.shape[1] - first + 1
        extra: dict[str, Any] = {
            "position_ids": (mask.cumsum(-1) - 1).clamp_min(0),
            "logits_to_keep": keep,
            "use_cache": False,
        }
        accepted = {name: value for name, value in extra.items() if name in self._accepted}
        logits = self.model(**inputs, attention_mask=mask, **accepted).logits[:, -keep:-1]  # (B, S, V)
        return logits, labels[:, first:]

    def _stack(self, prompts: Sequence[list[int]], targets: Sequence[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T) ids, mask and labels, padded on the left; the labels are IGNORE but for the target."""
        pairs = list(zip(prompts, targets, strict=True))
        ids = pad([[*prompt, *target] for prompt, target in pairs], self.neutral_id, left=True)
        mask = pad([[1] * (len(prompt) + len(target)) for prompt, target in pairs], 0, left=True)
        labels = pad([[*[IGNORE] * len(prompt), *target] for prompt, target in pairs], IGNORE, left=True)
        return ids.to(self.device), mask.to(self.device), labels.to(self.device)

    def _target(self, text: str, *, ended: bool = False) -> list[int]:
        """The target's tokens; `ended` adds the token that ends an answer, where the tokenizer has one."""
        ids = target_ids(self.tokenizer, self.task.template, text)
        end = self.tokenizer.eos_token_id
        return bounded_target([*ids, int(end)] if ended and end is not None else ids, self.max_tokens - 1)

    def _start_id(self) -> int:
        start = self.tokenizer.bos_token_id
        start = self.tokenizer.eos_token_id if start is None else start
        if start is None:
            raise ModelError("the text has no token for this model, which has no start token either", param="input")
        return int(start)
