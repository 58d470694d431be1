"""The adapter of encoder-decoder models (T5, BART): the text goes into the encoder, the target into the decoder.

The score is taken at the target's own tokens. The end-of-sequence token is no part of it, because ending is not what
decided the answer; it does belong to the likelihood of a candidate, because `cat` must not win over `catalog` by
stopping early. Gradients are taken at a leaf given as `inputs_embeds`, never at the embedding table, which the decoder
may share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from understudy.models.attention import Attention, head_means, with_attention
from understudy.models.base import Batch, Written
from understudy.models.embeddings import embed
from understudy.models.likelihood import (
    IGNORE,
    GreedySteps,
    broke_off,
    path_probabilities,
    target_logits,
)
from understudy.models.passes import in_batches
from understudy.models.text import Encoded, bounded_target, clean, fitting, own_texts, pad
from understudy.models.trie import MAX_LOGITS, Level, Step, rows_at_once, walk_in_chunks
from understudy.models.writer import Read, T, Target, Writer

__all__ = ["Seq2SeqAdapter", "decoder_ids"]


def decoder_ids(tokenizer: Any, target: str) -> list[int]:
    """The target as a decoder is trained on it, special tokens included."""
    ids: list[int] = tokenizer(text_target=clean(target), verbose=False)["input_ids"]
    return ids


FEW = 24
"""Targets of a text that are scored as rows of one pass. A walk over the tree of their beginnings takes fewer rows in
more steps: on one core, at the width of T5-small, it was slower for 9 labels and faster for 60."""


class Seq2SeqAdapter(Writer):
    architecture = "seq2seq"

    @property
    def neutral_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def stack(self, encoded: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        ids = pad([row.ids for row in encoded], self.neutral_id).to(self.device)
        return ids, pad([[1] * len(row.ids) for row in encoded], 0).to(self.device)

    def collate(
        self,
        encoded: Sequence[Encoded],
        texts: Sequence[str],
        targets: Sequence[str],
        against: Sequence[str] | None = None,
    ) -> Batch:
        ids, mask = self.stack(encoded)
        return Batch(
            texts=tuple(texts),
            encoded=tuple(encoded),
            ids=ids,
            mask=mask,
            labels=self._labels(targets),
            offsets=tuple((*row.offsets, *[None] * (ids.shape[1] - len(row.ids))) for row in encoded),
            against=None if against is None else self._labels(against),
        )

    def embed(self, ids: Tensor) -> Tensor:
        return embed(self.model, ids)

    def token_scores(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        return self._decoded(self._states(embeds, mask), mask, labels)

    def objective(self, batch: Batch) -> Callable[..., Tensor]:
        """As everywhere, but two answers that are compared share one pass of the encoder."""
        if batch.against is None:
            return super().objective(batch)

        def contrast(embeds: Tensor, mask: Tensor, labels: Tensor, against: Tensor) -> Tensor:
            states = self._states(embeds, mask)
            one, other = (
                self._decoded(states, mask, each).sum(-1) / self.own(each).sum(-1) for each in (labels, against)
            )
            return one - other

        return contrast

    def _states(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """What the encoder makes of the input: (B, T, D), (B, T) -> (B, T, D)."""
        return self.model.get_encoder()(inputs_embeds=embeds, attention_mask=mask).last_hidden_state

    def _decoded(self, states: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        logits = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(labels),
            use_cache=False,
        ).logits  # (B, S, V)
        return target_logits(logits, labels, self.own(labels))

    def own(self, labels: Tensor) -> Tensor:
        """A blank target, which has nothing else, keeps the token that ends it."""
        special = torch.isin(labels, torch.tensor(self.tokenizer.all_special_ids, device=labels.device))
        own = labels.ne(IGNORE) & ~special
        return torch.where(own.any(-1, keepdim=True), own, labels.ne(IGNORE))

    def target_tokens(self, batch: Batch) -> list[list[str]]:
        return own_texts(self.tokenizer, batch.labels, self.own(batch.labels))

    def attention(self, batch: Batch) -> Attention | None:
        """The answer is read where the decoder looks into the text, as the mean over its layers."""
        outputs = with_attention(
            self.model,
            inputs_embeds=self.embed(batch.ids),
            attention_mask=batch.mask,
            decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(batch.labels),
            use_cache=False,
        )
        layers, cross = (head_means(outputs, field) for field in ("encoder_attentions", "cross_attentions"))
        if not (layers and cross):
            return None
        return Attention(layers, torch.stack(cross).mean(0) * self.own(batch.labels).unsqueeze(-1))

    def room(self, row: Encoded) -> int:  # noqa: ARG002
        """The window: the decoder has its own."""
        return self.max_tokens

    @property
    def target_room(self) -> int:
        return self.max_tokens

    def written_ids(self, text: str, *, ended: bool) -> list[int]:
        ids = self._ids(text)
        while not ended and ids and ids[-1] in self.tokenizer.all_special_ids:
            ids = ids[:-1]
        return ids

    @torch.inference_mode()
    def over_targets(
        self, encoded: Sequence[Encoded], targets: Sequence[Sequence[Target]], read: Read[T]
    ) -> list[list[T]]:
        """One encoder pass a text; its targets share the states and go through the decoder in batches."""
        for row in targets:
            for target in row:
                bounded_target(target.ids, self.max_tokens)

        def answer(positions: Sequence[int]) -> list[list[T]]:
            ids, mask = self.stack([encoded[i] for i in positions])
            states = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
            pairs = [(place, target) for place, i in enumerate(positions) for target in targets[i]]
            found: list[list[T]] = [[] for _ in positions]
            for chunk in self._chunks(pairs):
                owners = torch.tensor([place for place, _ in chunk], device=self.device)
                values = self._read(states[owners], mask[owners], [target for _, target in chunk], read)
                for (place, _), value in zip(chunk, values, strict=True):
                    found[place].append(value)
            return found

        return in_batches([len(row.ids) for row in encoded], self.max_padded_tokens, answer)

    def target_likelihoods(self, encoded: Sequence[Encoded], targets: Sequence[Sequence[Target]]) -> list[list[float]]:
        """One encoder pass a text. Few targets share one pass of the decoder, many a walk over their beginnings."""
        found: dict[int, list[float]] = {}
        for read, places in (
            (super().target_likelihoods, [i for i, row in enumerate(targets) if len(row) <= FEW]),
            (self._walked, [i for i, row in enumerate(targets) if len(row) > FEW]),
        ):
            values = read([encoded[i] for i in places], [targets[i] for i in places])
            found |= zip(places, values, strict=True)
        return [found[i] for i in range(len(targets))]

    @torch.inference_mode()
    def _walked(self, encoded: Sequence[Encoded], targets: Sequence[Sequence[Target]]) -> list[list[float]]:
        """One step of the decoder for each distinct beginning of a text's targets."""
        for row in targets:
            for target in row:
                bounded_target(target.ids, self.max_tokens)

        def answer(positions: Sequence[int]) -> list[list[float]]:
            ids, mask = self.stack([encoded[i] for i in positions])
            states = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
            rows = rows_at_once(self.model.config, states.shape[1])
            return walk_in_chunks([targets[i] for i in positions], rows, lambda: self._stepper(states, mask))

        return in_batches([len(row.ids) for row in encoded], self.max_padded_tokens, answer)

    def _stepper(self, states: Tensor, mask: Tensor) -> Step:
        """The decoder's next step behind its steps before: what the texts are to it is computed once a text."""
        cache: Any = None

        def step(level: Level) -> Tensor:
            nonlocal cache
            owners = torch.tensor(level.owners, device=self.device)
            if level.parents:
                cache.reorder_cache(torch.tensor(level.parents, device=self.device))
                ids = torch.tensor(level.tokens, device=self.device).unsqueeze(-1)
            else:
                ids = self._decoder_start([[]] * len(level.owners))  # (R, 1)
            output = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=states[owners]),
                attention_mask=mask[owners],
                decoder_input_ids=ids,
                past_key_values=cache,
                use_cache=True,
            )
            cache = output.past_key_values
            return output.logits[:, -1]

        return step

    @torch.inference_mode()
    def _write(self, encoded: Sequence[Encoded], begins: Sequence[list[int]], max_new_tokens: int) -> Sequence[Written]:
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
        )

        def write(positions: Sequence[int]) -> list[Written]:
            ids, mask = self.stack([encoded[i] for i in positions])
            begin = self._decoder_start([begins[i] for i in positions])  # (B, S)
            greedy = GreedySteps()
            written = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                decoder_input_ids=begin,
                generation_config=config,
                logits_processor=[greedy],
            )
            answers = written[:, begin.shape[1] :]
            found = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
            chances = path_probabilities(greedy.steps, answers, self.end_ids)
            cut = broke_off(answers, self.end_ids)
            return [self._fitting(Written(*one)) for one in zip(found, chances, cut, strict=True)]

        return in_batches(self._read_and_written(encoded, max_new_tokens), self.max_padded_tokens, write)

    def _decoder_start(self, begins: Sequence[list[int]]) -> Tensor:
        """What the decoder has read before its first step: its start token and the beginning, (B, 1 + S)."""
        last = int(self.tokenizer.eos_token_id)  # shifted out again: labels predict one token more than they read
        labels = torch.tensor([[*begin, last] for begin in begins], device=self.device)
        return self.model.prepare_decoder_input_ids_from_labels(labels)

    def _read(self, states: Tensor, mask: Tensor, targets: Sequence[Target], read: Read[T]) -> Sequence[T]:
        """What `read` makes of each target behind its text's encoder states: (C, T, D), (C, T) -> C values."""
        labels = pad([target.ids for target in targets], IGNORE).to(self.device)  # (C, S)
        logits = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(labels),
            use_cache=False,
        ).logits  # (C, S, V)
        return read(logits, labels, targets)

    def _ids(self, target: str) -> list[int]:
        return decoder_ids(self.tokenizer, target)

    def _fitting(self, answer: Written) -> Written:
        said = answer.text.strip()
        text = fitting(said, lambda text: len(self._ids(text)), self.max_tokens)
        return Written(text, answer.probability, answer.unfinished or text != said)

    def _target(self, text: str) -> list[int]:
        return bounded_target(self._ids(text), self.max_tokens)

    def _labels(self, targets: Sequence[str]) -> Tensor:
        return pad([self._target(target) for target in targets], IGNORE).to(self.device)  # (B, S)

    def _chunks(self, pairs: Sequence[tuple[int, Target]]) -> Iterator[Sequence[tuple[int, Target]]]:
        longest = max((len(target.ids) for _, target in pairs), default=1)
        size = max(1, MAX_LOGITS // (longest * self.model.config.vocab_size))
        for start in range(0, len(pairs), size):
            yield pairs[start : start + size]
