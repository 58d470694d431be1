"""The adapter of encoder-decoder models (T5, BART): the text goes into the encoder, the target into the decoder.

The score is taken at the target's own tokens. The end-of-sequence token is no part of it, because ending is not what
decided the answer; it does belong to the likelihood of a candidate, because `cat` must not win over `catalog` by
stopping early. Gradients are taken at a leaf given as `inputs_embeds`, never at the embedding table, which the decoder
may share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from understudy.batching import plan_batches
from understudy.models.base import Adapter, Batch
from understudy.models.likelihood import (
    IGNORE,
    GreedySteps,
    path_probabilities,
    sum_log_probabilities,
    target_logits,
)
from understudy.models.text import Encoded, bounded_target, clean, own_texts, pad

__all__ = ["Seq2SeqAdapter"]

MAX_LOGITS = 1 << 26
"""Logits of one decoder pass over candidates: 256 MiB in float32. A vocabulary is large, and so are label sets."""


class Seq2SeqAdapter(Adapter):
    architecture = "seq2seq"

    @property
    def neutral_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def collate(
        self,
        encoded: Sequence[Encoded],
        texts: Sequence[str],
        targets: Sequence[str],
        against: Sequence[str] | None = None,
    ) -> Batch:
        ids, mask = self._stack(encoded)
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
        return self.model.get_encoder().get_input_embeddings()(ids)

    def token_scores(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        logits = self.model(
            inputs_embeds=embeds,
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

    @torch.inference_mode()
    def likelihoods(self, encoded: Sequence[Encoded], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        """One encoder pass a text; its candidates share the states and go through the decoder in batches."""
        found: list[list[float]] = [[] for _ in encoded]
        targets = {text: self._target(text) for row in candidates for text in row}
        for batch in plan_batches([len(row.ids) for row in encoded], self.max_padded_tokens):
            ids, mask = self._stack([encoded[i] for i in batch])
            states = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
            pairs = [(place, targets[text]) for place, i in enumerate(batch) for text in candidates[i]]
            for chunk in self._chunks(pairs):
                owners = torch.tensor([place for place, _ in chunk], device=self.device)
                labels = pad([target for _, target in chunk], IGNORE).to(self.device)  # (C, S)
                logits = self.model(
                    encoder_outputs=BaseModelOutput(last_hidden_state=states[owners]),
                    attention_mask=mask[owners],
                    decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(labels),
                    use_cache=False,
                ).logits  # (C, S, V)
                for (place, _), value in zip(chunk, sum_log_probabilities(logits, labels).tolist(), strict=True):
                    found[batch[place]].append(value)
        return found

    @torch.inference_mode()
    def generate(
        self, texts: Sequence[str], max_new_tokens: int = 64, template: str | None = None
    ) -> list[tuple[str, float]]:
        found: dict[int, tuple[str, float]] = {}
        rows = self.with_template(template).tokenize(texts)
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
        )
        for batch in plan_batches([len(row.ids) for row in rows], self.max_padded_tokens):
            ids, mask = self._stack([rows[i] for i in batch])
            greedy = GreedySteps()
            written = self.model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=[greedy]
            )
            answers = written[:, 1:]  # without the decoder's start token
            for i, text, probability in zip(
                batch,
                self.tokenizer.batch_decode(answers, skip_special_tokens=True),
                path_probabilities(greedy.steps, answers, self.end_ids),
                strict=True,
            ):
                found[i] = (text.strip(), probability)
        return [found[i] for i in range(len(texts))]

    def _stack(self, rows: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """(B, T) ids and mask; the mask comes from lengths, because a text may hold the padding token itself."""
        ids = pad([row.ids for row in rows], self.neutral_id).to(self.device)
        return ids, pad([[1] * len(row.ids) for row in rows], 0).to(self.device)

    def _target(self, text: str) -> list[int]:
        """The target as the decoder is trained on it, special tokens included."""
        return bounded_target(self.tokenizer(text_target=clean(text), verbose=False)["input_ids"], self.max_tokens)

    def _labels(self, targets: Sequence[str]) -> Tensor:
        return pad([self._target(target) for target in targets], IGNORE).to(self.device)  # (B, S)

    def _chunks(self, pairs: Sequence[tuple[int, list[int]]]) -> Iterator[Sequence[tuple[int, list[int]]]]:
        longest = max((len(target) for _, target in pairs), default=1)
        size = max(1, MAX_LOGITS // (longest * self.model.config.vocab_size))
        for start in range(0, len(pairs), size):
            yield pairs[start : start + size]
