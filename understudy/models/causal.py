"""The adapter of decoder-only models (Llama, Qwen, GPT): the target follows the text in one sequence.

A batch's ids are the prompts, padded on the left; the targets, padded on the right, are appended as the model reads
them. All targets then begin in the same column, only their logits are computed, and one prompt can be scored for two
answers. Position ids come from the mask. The prompt's last token predicts the target's first. Where a sequence does not
fit, the prompt is cut, never the target. The end-of-sequence token is no part of a score; it does belong to the
likelihood of a candidate (see `seq2seq`).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from understudy.batching import PASS_COST
from understudy.errors import ModelError
from understudy.models.attention import Attention, head_means, with_attention
from understudy.models.base import Batch, Written
from understudy.models.likelihood import (
    IGNORE,
    GreedySteps,
    broke_off,
    path_probabilities,
    target_logits,
)
from understudy.models.passes import in_batches
from understudy.models.read_on import logits_behind, positions, prompts_and_targets, reads_on
from understudy.models.text import Encoded, Template, bounded_target, clean, fitting, own_texts, pad, tokenize
from understudy.models.writer import Read, T, Target, Writer
from understudy.schemas import TaskSpec

__all__ = ["CausalAdapter", "prompt_template", "target_ids", "target_room"]

_ANCHOR = "a"
"""A target is tokenised behind it and without it: a SentencePiece tokenizer adds its own space at a text's start."""


def prompt_template(template: str) -> Template:
    """The template without spaces at its end, where the target's own leading space belongs."""
    parsed = Template.parse(template)
    return Template(parsed.prefix, parsed.suffix.rstrip(" "))


def target_ids(tokenizer: Any, template: str, target: str, *, ended: bool = False) -> list[int]:
    """The tokens of a target as it follows the prompt: behind a space, or at the start of a line.

    `ended`: with the token that ends a text, where the tokenizer has one.
    """
    line = prompt_template(template).suffix.endswith("\n")
    before = _ANCHOR + "\n" if line else _ANCHOR
    text = before + ("" if line else " ") + clean(target).strip()
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
    ends = [] if not ended or tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    return [*(token for token, (_, end) in spans if end > len(before)), *ends]


def target_room(tokenizer: Any, template: str, max_tokens: int) -> int:
    """The most tokens of a target with its end, in a window that also holds the template and one token of the text."""
    around = tokenize(tokenizer, prompt_template(template), [""], max_tokens)[0]
    return max_tokens - len(around.ids) - 1


class CausalAdapter(Writer):
    architecture = "causal"

    def __init__(self, model: Any, tokenizer: Any, task: TaskSpec, max_tokens: int) -> None:
        super().__init__(model, tokenizer, task, max_tokens)
        self._accepted = set(inspect.signature(model.forward).parameters)
        self.reads_on = reads_on(model)

    @property
    def neutral_id(self) -> int:
        """Padding where there is some, else the end of a text; a decoder is never trained on silence."""
        pad_id = self.tokenizer.pad_token_id
        return int(min(self.end_ids, default=0) if pad_id is None else pad_id)

    def tokenize(self, texts: Sequence[str], reserve: int = 1) -> list[Encoded]:
        """Prompts that leave `reserve` tokens of the window to the target."""
        return tokenize(self.tokenizer, prompt_template(self.task.template), texts, self.max_tokens - reserve)

    def prompts(self, texts: Sequence[str], reserved: Sequence[int]) -> list[list[int]]:
        """The tokens that targets follow, each with so many of the window left to its target."""
        rows = zip(self.tokenize(texts), reserved, strict=True)
        return [row.cut(self.max_tokens - taken).ids or [self._start_id()] for row, taken in rows]

    def stack(self, encoded: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Padded on the left; a prompt without any token becomes the start token."""
        rows = [row.ids or [self._start_id()] for row in encoded]
        ids = pad(rows, self.neutral_id, left=True).to(self.device)
        return ids, pad([[1] * len(row) for row in rows], 0, left=True).to(self.device)

    def collate(
        self,
        encoded: Sequence[Encoded],
        texts: Sequence[str],
        targets: Sequence[str],
        against: Sequence[str] | None = None,
    ) -> Batch:
        answers = [self._explained(target) for target in targets]
        others = None if against is None else [self._explained(target) for target in against]
        room = [max(map(len, pair)) for pair in zip(answers, others or answers, strict=True)]
        prompts = [row.cut(self.max_tokens - taken) for row, taken in zip(encoded, room, strict=True)]
        ids, mask = self.stack(prompts)
        return Batch(
            texts=tuple(texts),
            encoded=tuple(prompts),
            ids=ids,
            mask=mask,
            labels=pad(answers, IGNORE).to(self.device),
            offsets=tuple((*[None] * (ids.shape[1] - len(row.ids)), *row.offsets) for row in prompts),
            against=None if others is None else pad(others, IGNORE).to(self.device),
        )

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def token_scores(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        own = self.own(labels)
        sequence = torch.cat([embeds, self.embed(labels.clamp_min(0))], 1)  # (B, T + S, D)
        return target_logits(self._logits(mask, own, inputs_embeds=sequence), labels, own)

    def own(self, labels: Tensor) -> Tensor:
        return labels.ne(IGNORE)

    def target_tokens(self, batch: Batch) -> list[list[str]]:
        return own_texts(self.tokenizer, batch.labels, self.own(batch.labels))

    def attention(self, batch: Batch) -> Attention | None:
        """Each token of the answer is read from the position before it.

        Padded on the right for this pass: no padding is then left without a token to look at, which some models answer
        with numbers that are none.
        """
        own = self.own(batch.labels)
        width, answer = batch.ids.shape[1], own.shape[1]
        padding = (width - batch.mask.sum(-1)).tolist()
        sequence = torch.cat([batch.ids, batch.labels.clamp_min(0)], 1)  # (B, T + S)
        mask = torch.cat([batch.mask, own.to(batch.mask.dtype)], 1)
        ids, mask = (_rolled(each, [-shift for shift in padding]) for each in (sequence, mask))
        keep = {"logits_to_keep": 1} if "logits_to_keep" in self._accepted else {}
        outputs = with_attention(self.model, input_ids=ids, attention_mask=mask, use_cache=False, **keep)
        layers = [_rolled(layer, padding) for layer in head_means(outputs, "attentions")]  # (B, T + S, T + S)
        if not layers:
            return None
        reading = layers[0].new_zeros(len(own), answer, width + answer)
        steps = torch.arange(answer, device=self.device)
        reading[:, steps, width - 1 + steps] = own.to(reading.dtype)
        return Attention(layers, reading)

    def room(self, row: Encoded) -> int:
        """Half the window, and what leaves one token of the text and the token that ends an answer."""
        return min(self.max_tokens // 2, self.max_tokens - row.fixed - 2)

    @property
    def target_room(self) -> int:
        return target_room(self.tokenizer, self.task.template, self.max_tokens)

    def written_ids(self, text: str, *, ended: bool) -> list[int]:
        return target_ids(self.tokenizer, self.task.template, text, ended=ended)

    def _prompts(self, encoded: Sequence[Encoded], targets: Sequence[Sequence[Target]]) -> list[Encoded]:
        """One cut for all targets of a text, so that they are compared behind the same prompt."""
        longest = [max((len(self._bounded(target.ids)) for target in row), default=1) for row in targets]
        return [row.cut(self.max_tokens - taken) for row, taken in zip(encoded, longest, strict=True)]

    @torch.inference_mode()
    def over_targets(
        self, encoded: Sequence[Encoded], targets: Sequence[Sequence[Target]], read: Read[T]
    ) -> list[list[T]]:
        prompts = self._prompts(encoded, targets)

        pairs = [(i, target) for i, row in enumerate(targets) for target in row]

        def answer(positions: Sequence[int]) -> Sequence[T]:
            chunk = [pairs[k] for k in positions]
            texts = list(dict.fromkeys(i for i, _ in chunk))
            ids, mask = self.stack([prompts[i] for i in texts])
            owners = torch.tensor([texts.index(i) for i, _ in chunk], device=self.device)
            labels = pad([target.ids for _, target in chunk], IGNORE).to(self.device)  # (R, S)
            return read(self._behind_prompts(ids, mask, owners, labels), labels, [target for _, target in chunk])

        # A text counts once for each of its targets: so often is there what the model keeps of it. All of its targets
        # are taken to be as long as its longest, so that they come together.
        longest = [max((len(target.ids) for target in row), default=0) for row in targets]
        lengths = [len(prompts[i].ids) + longest[i] for i, _ in pairs]
        found: list[list[T]] = [[] for _ in encoded]
        for (i, _), value in zip(pairs, in_batches(lengths, self.max_padded_tokens, answer), strict=True):
            found[i].append(value)
        return found

    def _behind_prompts(self, ids: Tensor, mask: Tensor, owners: Tensor, labels: Tensor) -> Tensor:
        """The logits that predict each target's tokens: 2 x (B, T), (R,) prompts of the targets, (R, S) -> (R, S, V).

        A prompt with several targets is read once, where that saves more than the second pass costs. The walk over the
        tree of the targets' beginnings (`trie`), which encoder-decoders take for many, was not clearly faster here.
        """
        again = (len(owners) - len(ids)) * ids.shape[1]  # tokens that would be read more than once
        if again > PASS_COST * self.max_padded_tokens and self.reads_on:
            prompts, targets = prompts_and_targets(ids, mask, owners, labels, self._accepted)
            return logits_behind(self.model, prompts, owners, targets)
        sequence = torch.cat([ids[owners], labels.clamp_min(0)], 1)
        return self._logits(mask[owners], self.own(labels), input_ids=sequence)

    @torch.inference_mode()
    def _write(self, encoded: Sequence[Encoded], begins: Sequence[list[int]], max_new_tokens: int) -> Sequence[Written]:
        """Half of the window that a beginning leaves belongs to the text, as much as is needed of the other is new."""
        window = self.max_tokens - len(begins[0])
        max_new_tokens = min(max_new_tokens, window // 2)
        rows = [
            self._begun(row.cut(window - max_new_tokens), begin) for row, begin in zip(encoded, begins, strict=True)
        ]
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self.neutral_id,
        )

        def write(positions: Sequence[int]) -> list[Written]:
            ids, mask = self.stack([rows[i] for i in positions])
            greedy = GreedySteps()
            written = self.model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=[greedy]
            )
            answers = written[:, ids.shape[1] :]
            found = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
            chances = path_probabilities(greedy.steps, answers, self.end_ids)
            cut = broke_off(answers, self.end_ids)
            every = map(Written, found, chances, cut)
            return [self._fitting(one, rows[i]) for i, one in zip(positions, every, strict=True)]

        return in_batches(self._read_and_written(rows, max_new_tokens), self.max_padded_tokens, write)

    def _begun(self, prompt: Encoded, begin: list[int]) -> Encoded:
        """The prompt with the beginning of an answer behind it."""
        ids = prompt.ids or [self._start_id()] if begin else prompt.ids
        fixed: list[tuple[int, int] | None] = [None] * (len(ids) + len(begin) - len(prompt.offsets))
        return Encoded([*ids, *begin], [*prompt.offsets, *fixed], prompt.truncated)

    def _logits(self, mask: Tensor, own: Tensor, **inputs: Tensor) -> Tensor:
        """The logits that predict each target token: prompts with targets, (B, T), (B, S) -> (B, S, V)."""
        whole = torch.cat([mask, own.to(mask.dtype)], 1)  # (B, T + S)
        keep = own.shape[1] + 1
        extra: dict[str, Any] = {
            "position_ids": positions(whole),
            "logits_to_keep": keep,
            "use_cache": False,
        }
        accepted = {name: value for name, value in extra.items() if name in self._accepted}
        return self.model(**inputs, attention_mask=whole, **accepted).logits[:, -keep:-1]

    def _fitting(self, answer: Written, prompt: Encoded) -> Written:
        said = answer.text.strip()
        text = fitting(said, lambda text: len(self.written_ids(text, ended=False)), self.room(prompt))
        return Written(text, answer.probability, answer.unfinished or text != said)

    def _explained(self, target: str) -> list[int]:
        """The tokens that say the answer; a blank one, which has none, is explained by the token that ends it."""
        return self._bounded(self.written_ids(target, ended=False) or self.written_ids(target, ended=True))

    def _bounded(self, ids: list[int]) -> list[int]:
        return bounded_target(ids, self.max_tokens - 1)

    def _start_id(self) -> int:
        start = self.tokenizer.bos_token_id
        start = self.tokenizer.eos_token_id if start is None else start
        if start is None:
            raise ModelError("the text has no token for this model, which has no start token either", param="input")
        return int(start)


def _rolled(rows: Tensor, shifts: Sequence[int]) -> Tensor:
    """Each row moved along all its dimensions, what leaves at one end coming in at the other."""
    dims = tuple(range(rows.dim() - 1))
    return torch.stack([row.roll([shift] * len(dims), dims) for row, shift in zip(rows, shifts, strict=True)])
