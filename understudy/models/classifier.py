"""The adapter of encoders with a classification head: BERT-like models of the hub, and our EncoderClassifier.

A target is a label's name. Label names come from the task where it lists some, else from the model's `id2label`.
Decoders with a classification head are refused: they read the last token, which padding would move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from understudy.errors import ModelError
from understudy.models.attention import Attention, head_means, with_attention
from understudy.models.base import Adapter, Batch, Written
from understudy.models.likelihood import target_logits
from understudy.models.passes import in_batches
from understudy.models.text import Encoded, pad
from understudy.schemas import TaskSpec

__all__ = ["ClassifierAdapter", "label_ids"]


def label_ids(config: Any, labels: Sequence[str]) -> dict[str, int]:
    """Which logit each of the task's labels has: by name, or by order where the model only counts its labels.

    Raises ModelError where neither fits.
    """
    named = {str(name): int(index) for index, name in config.id2label.items()}
    if not labels or set(labels) <= set(named):
        return {label: named[label] for label in labels} or named
    counted = {f"LABEL_{index}" for index in range(len(named))} == set(named)
    if counted and len(labels) == len(named):
        return {label: index for index, label in enumerate(labels)}
    missing = [label for label in labels if label not in named]
    raise ModelError(
        f"this classifier has no label {', '.join(map(repr, missing))}: it has {', '.join(sorted(named))}",
        param="labels",
    )


class ClassifierAdapter(Adapter):
    architecture = "classifier"

    def __init__(self, model: Any, tokenizer: Any, task: TaskSpec, max_tokens: int) -> None:
        super().__init__(model, tokenizer, task, max_tokens)
        self.label_ids = label_ids(model.config, task.labels)

    @property
    def neutral_id(self) -> int:
        """An encoder that was pretrained on masks has learned what no information looks like; others have padding."""
        mask = self.tokenizer.mask_token_id
        return int(self.tokenizer.pad_token_id if mask is None else mask)

    def stack(self, encoded: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        ids = pad([row.ids for row in encoded], int(self.tokenizer.pad_token_id)).to(self.device)
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
        return self.model.get_input_embeddings()(ids)

    def token_scores(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        logits = self.model(inputs_embeds=embeds, attention_mask=mask).logits  # (B, L)
        return target_logits(logits.unsqueeze(1), labels, self.own(labels))

    def own(self, labels: Tensor) -> Tensor:
        return torch.ones_like(labels, dtype=torch.bool)

    def target_tokens(self, batch: Batch) -> list[list[str]]:
        """A label is one token, whatever its name."""
        names = {index: name for name, index in self.label_ids.items()}
        return [[names[index]] for index in batch.labels.squeeze(-1).tolist()]

    def objective(self, batch: Batch) -> Callable[..., Tensor]:
        """As everywhere, but one pass has the logits of both answers that are compared."""
        if batch.against is None:
            return super().objective(batch)

        def contrast(embeds: Tensor, mask: Tensor, labels: Tensor, against: Tensor) -> Tensor:
            both = self.model(inputs_embeds=embeds, attention_mask=mask).logits.gather(
                -1, torch.cat([labels, against], 1)
            )
            return both[:, 0] - both[:, 1]

        return contrast

    @torch.inference_mode()
    def likelihoods(self, encoded: Sequence[Encoded], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        """Log-softmax over the candidates asked for, so that a label nobody asked for takes no probability."""
        wanted = [self._indices(row) for row in candidates]

        def read(positions: Sequence[int]) -> list[list[float]]:
            ids, mask = self.stack([encoded[i] for i in positions])
            logits = self.model(input_ids=ids, attention_mask=mask).logits.double()  # (B, L)
            return [row[wanted[i]].log_softmax(-1).tolist() for i, row in zip(positions, logits, strict=True)]

        return in_batches([len(row.ids) for row in encoded], self.max_padded_tokens, read)

    def attention(self, batch: Batch) -> Attention | None:
        outputs = with_attention(self.model, inputs_embeds=self.embed(batch.ids), attention_mask=batch.mask)
        layers = head_means(outputs, "attentions")
        return Attention(layers, self._pooling(outputs, batch.mask).unsqueeze(1)) if layers else None

    def generate(self, *_: Any, **__: Any) -> list[Written]:
        raise ModelError("a classifier cannot write: give labels, or choices for each row", param="model")

    def with_task(self, task: TaskSpec) -> ClassifierAdapter:
        other = super().with_task(task)
        other.label_ids = label_ids(self.model.config, task.labels)
        return other

    def _pooling(self, outputs: Any, mask: Tensor) -> Tensor:
        """The share of each token in what the head reads, (B, T): gated, the mean, or else the first token."""
        pooling = getattr(self.model.config, "pooling", None) or getattr(self.model.config, "classifier_pooling", None)
        weights = mask.to(torch.promote_types(outputs.logits.dtype, torch.float32))
        if pooling == "gate":
            weights = outputs.gate_logits.to(weights.dtype).sigmoid()  # shut for padding
        elif pooling not in ("mean", "tags"):
            weights = torch.zeros_like(weights).index_fill(1, mask.new_tensor([0]), 1)
        return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)

    def _labels(self, names: Iterable[str]) -> Tensor:
        return torch.tensor(self._indices(names), device=self.device).unsqueeze(-1)  # (B, 1)

    def _indices(self, names: Iterable[str]) -> list[int]:
        names = list(names)
        for name in names:
            if name not in self.label_ids:
                known = ", ".join(sorted(self.label_ids))
                raise ModelError(f"this classifier has no label {name!r}: it has {known}", param="labels")
        return [self.label_ids[name] for name in names]
