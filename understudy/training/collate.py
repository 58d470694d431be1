"""From instances to the tensors of one step. Pads each view on the right to the longest of its batch; knows no loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from understudy.models.likelihood import IGNORE
from understudy.models.text import pad
from understudy.training.views import Instance, Side

__all__ = ["Collator"]

Tensors = dict[str, Any]


class Collator:
    """Callable on a list of instances, as a DataLoader wants it.

    `shift` turns a decoder's labels into its inputs (`prepare_decoder_input_ids_from_labels`); None for models without
    a decoder of their own. The result holds `label`, and `explanation`, `gate` and `distribution` where any instance
    has one; an instance that lacks it takes part with weight 0.
    """

    def __init__(self, architecture: str, pad_id: int, shift: Callable[[Tensor], Tensor] | None = None) -> None:
        self.architecture = architecture
        self.pad_id = pad_id
        self.shift = shift

    def __call__(self, instances: Sequence[Instance]) -> Tensors:
        batch: Tensors = {"label": self._side([one.label for one in instances])}
        if any(one.explanation for one in instances):
            batch["explanation"] = self._explanation(instances)
        if any(one.gate for one in instances):
            batch["gate"] = self._gate(instances)
        if any(one.distribution for one in instances):
            batch["distribution"] = self._distribution(instances)
        return batch

    def _side(self, sides: Sequence[Side]) -> Tensors:
        """`inputs` are the model's arguments; `labels` are aligned with the logits that it answers."""
        inputs = {
            "input_ids": pad([side.ids for side in sides], self.pad_id),  # (B, T)
            "attention_mask": pad([[1] * len(side.ids) for side in sides], 0),  # (B, T)
        }
        if self.architecture == "classifier":
            return {"inputs": inputs, "labels": torch.tensor([side.labels[0] for side in sides])}
        labels = pad([side.labels for side in sides], IGNORE)  # (B, S)
        if self.shift is not None:
            inputs["decoder_input_ids"] = self.shift(labels)
            return {"inputs": inputs, "labels": labels}
        # A decoder's logits at one place predict the next token.
        return {"inputs": inputs, "labels": torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORE)], 1)}

    def _explanation(self, instances: Sequence[Instance]) -> Tensors:
        """Only the rows that have one; `rows` are their places in the batch."""
        rows = [place for place, one in enumerate(instances) if one.explanation]
        return {**self._side([one.explanation for one in instances if one.explanation]), "rows": torch.tensor(rows)}

    def _gate(self, instances: Sequence[Instance]) -> Tensors:
        empty: list[int | None] = []
        rows = [(one.gate or empty) + [None] * (len(one.label.ids) - len(one.gate or empty)) for one in instances]
        return {
            "targets": pad([[target or 0 for target in row] for row in rows], 0).float(),  # (B, T)
            "mask": pad([[int(target is not None) for target in row] for row in rows], 0).float(),  # (B, T)
        }

    def _distribution(self, instances: Sequence[Instance]) -> Tensors:
        """Probabilities and mask (B, C); a row without any is uniform and has `present` 0, so that nothing is nan."""
        width = max(len(one.distribution or []) for one in instances)
        rows = [one.distribution or [1 / width] * width for one in instances]
        found: Tensors = {
            "probabilities": torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows]),
            "mask": pad([[1] * len(row) for row in rows], 0),
            "present": torch.tensor([float(one.distribution is not None) for one in instances]),
        }
        return found if self.architecture == "classifier" else {**found, **self._candidates(instances)}

    def _candidates(self, instances: Sequence[Instance]) -> Tensors:
        """All candidates of the batch in one list: `owners` are the rows and `places` the columns that they score."""
        flat = [
            (owner, place, ids) for owner, one in enumerate(instances) for place, ids in enumerate(one.candidates or [])
        ]
        labels = pad([ids for _, _, ids in flat], IGNORE)  # (N, S)
        return {
            "labels": labels,
            "decoder_input_ids": self.shift(labels) if self.shift else labels,
            "owners": torch.tensor([owner for owner, _, _ in flat]),
            "places": torch.tensor([place for _, place, _ in flat]),
        }
