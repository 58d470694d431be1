"""From instances to the tensors of one step. Pads each view on the right to the longest of its batch; knows no loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from understudy.models.base import Adapter
from understudy.models.likelihood import IGNORE
from understudy.models.read_on import prompts_and_targets, reads_on
from understudy.models.text import pad
from understudy.training.views import Instance, Side

__all__ = ["Collator"]

Tensors = dict[str, Any]


class Collator:
    """Callable on a list of instances, as a DataLoader wants it.

    `shift` turns a decoder's labels into its inputs (`prepare_decoder_input_ids_from_labels`); None for models without
    a decoder of their own. The result holds `label`, and `explanation`, `input`, `marks`, `map` and `distribution`
    where any instance has one; an instance that lacks it takes part with weight 0. `special_ids` are the tokens that
    end an answer and are no part of it. `accepted` are names of what a decoder takes. With `logits_to_keep` it is asked
    for the logits of the columns that hold a label: of a large vocabulary, those of whole texts are a seventh of the
    time of a step. With `past_key_values` it reads a prompt once for all candidates.
    """

    def __init__(
        self,
        architecture: str,
        pad_id: int,
        shift: Callable[[Tensor], Tensor] | None = None,
        special_ids: Collection[int] = (),
        *,
        accepted: Collection[str] = (),
    ) -> None:
        self.architecture = architecture
        self.pad_id = pad_id
        self.shift = shift
        self.special_ids = torch.tensor(sorted(special_ids), dtype=torch.long)
        self.accepted = set(accepted)

    @classmethod
    def of(cls, adapter: Adapter) -> Self:
        """For the adapter's model, with or without low-rank adapters in it."""
        model = adapter.model
        accepted = set(inspect.signature(model.forward).parameters)
        if not reads_on(model):
            accepted.discard("past_key_values")
        # A pad id of 0 is an id; what stands on padding is masked everywhere, so any token would do.
        pad_id = adapter.tokenizer.pad_token_id
        return cls(
            adapter.architecture,
            adapter.neutral_id if pad_id is None else pad_id,
            model.prepare_decoder_input_ids_from_labels if adapter.architecture == "seq2seq" else None,
            adapter.tokenizer.all_special_ids,
            accepted=accepted if adapter.architecture == "causal" else (),
        )

    def __call__(self, instances: Sequence[Instance]) -> Tensors:
        batch: Tensors = {"label": self._side([one.label for one in instances])}
        for name in ("explanation", "input"):
            if any(getattr(one, name) for one in instances):
                batch[name] = self._some([getattr(one, name) for one in instances])
        if any(one.marks for one in instances):
            batch["marks"] = self._marks(instances)
        if any(one.map for one in instances):
            batch["map"] = self._map(instances, batch["label"]["labels"])
        if any(one.distribution for one in instances):
            batch["distribution"] = self._distribution(instances)
        elif any(one.expected for one in instances):
            batch["distribution"] = _expected(instances, batch["label"]["labels"])
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
        labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORE)], 1)
        if "logits_to_keep" in self.accepted:
            inputs["logits_to_keep"] = labels.ne(IGNORE).any(0).nonzero().flatten()  # (S',)
            labels = labels[:, inputs["logits_to_keep"]]
        return {"inputs": inputs, "labels": labels}

    def _some(self, sides: Sequence[Side | None]) -> Tensors:
        """Only the rows that have one; `rows` are their places in the batch."""
        rows = [place for place, side in enumerate(sides) if side]
        return {**self._side([side for side in sides if side]), "rows": torch.tensor(rows)}

    def _marks(self, instances: Sequence[Instance]) -> Tensors:
        empty: list[int | None] = []
        rows = [(one.marks or empty) + [None] * (len(one.label.ids) - len(one.marks or empty)) for one in instances]
        return {
            "targets": pad([[target or 0 for target in row] for row in rows], 0).float(),  # (B, T)
            "mask": pad([[int(target is not None) for target in row] for row in rows], 0).float(),  # (B, T)
        }

    def _map(self, instances: Sequence[Instance], labels: Tensor) -> Tensors:
        """Word w of a row owns the tokens where `owners` is w; tokens of no word are owned by one more, the last.

        `own` marks the tokens of the answer whose logits are differentiated; a classifier has its one logit.
        """
        width = max(len(one.map.scores) for one in instances if one.map)
        owners = [one.map.owners if one.map else [None] * len(one.label.ids) for one in instances]
        return {
            "owners": pad([[width if owner is None else owner for owner in row] for row in owners], width),  # (B, T)
            "scores": _stacked([one.map.scores if one.map else [] for one in instances], width),  # (B, W)
            "present": torch.tensor([float(one.map is not None) for one in instances]),
            "own": labels.ne(IGNORE) & ~torch.isin(labels, self.special_ids),  # (B, S), or (B,) for classes
        }

    def _distribution(self, instances: Sequence[Instance]) -> Tensors:
        """Probabilities and mask (B, C); a row without any is uniform and has `present` 0, so that nothing is nan."""
        width = max(len(one.distribution or []) for one in instances)
        rows = [one.distribution or [1 / width] * width for one in instances]
        found: Tensors = {
            "probabilities": _stacked(rows, width),
            "mask": pad([[1] * len(row) for row in rows], 0),
            "present": torch.tensor([float(one.distribution is not None) for one in instances]),
        }
        return found if self.architecture == "classifier" else {**found, **self._candidates(instances)}

    def _candidates(self, instances: Sequence[Instance]) -> Tensors:
        """All candidates of the batch in one list: `owners` are the rows and `places` the columns that they score.

        An encoder-decoder needs their `decoder_input_ids` only. A decoder reads the `prompts`, and `behind` says which
        of them each candidate follows; one that cannot read on is given whole texts (`inputs`).
        """
        asked = [(owner, one) for owner, one in enumerate(instances) if one.candidates]
        flat = [(k, place, ids) for k, (_, one) in enumerate(asked) for place, ids in enumerate(one.candidates or ())]
        behind = torch.tensor([k for k, _, _ in flat])
        labels = pad([ids for _, _, ids in flat], IGNORE)  # (N, S)
        found: Tensors = {
            "owners": torch.tensor([owner for owner, _ in asked])[behind],
            "places": torch.tensor([place for _, place, _ in flat]),
            "labels": labels,
        }
        if self.shift is not None:
            return {**found, "decoder_input_ids": self.shift(labels)}
        prompts = [one.prompt or [] for _, one in asked]
        if "past_key_values" in self.accepted:
            ids, mask = pad(prompts, self.pad_id, left=True), pad([[1] * len(one) for one in prompts], 0, left=True)
            first, second = prompts_and_targets(ids, mask, behind, labels, self.accepted)
            return {**found, "behind": behind, "prompts": first, "targets": second}
        whole = [
            Side([*prompts[k], *ids], [*[IGNORE] * len(prompts[k]), *ids], [None] * (len(prompts[k]) + len(ids)), 0)
            for k, _, ids in flat
        ]
        return {**found, **self._side(whole)}


def _expected(instances: Sequence[Instance], labels: Tensor) -> Tensors:
    """Of each label (B, S) up to N tokens: `ids`, `probabilities` and `mask`, each (B, S, N).

    A place without any has mask 0 and is uniform, so that nothing is nan. A decoder that begins with its answer is not
    asked for the first token, so places are counted from the end.
    """
    width = max(1, *(len(place.ids) for one in instances for place in one.expected or ()))
    ids = torch.zeros(*labels.shape, width, dtype=torch.long)
    probabilities, mask = torch.full(ids.shape, 1 / width), torch.zeros_like(ids)
    for row, one in enumerate(instances):
        columns = labels[row].ne(IGNORE).nonzero().flatten().tolist()
        for column, place in zip(reversed(columns), reversed(one.expected or ()), strict=False):
            count = len(place.ids)
            ids[row, column, :count] = torch.tensor(place.ids, dtype=torch.long)
            probabilities[row, column, :count] = torch.tensor(place.probabilities)
            mask[row, column, :count] = 1
    present = mask.flatten(1).any(-1).float()  # (B,)
    return {"ids": ids, "probabilities": probabilities, "mask": mask, "present": present}


def _stacked(rows: Sequence[Sequence[float]], width: int) -> Tensor:
    """Rows of numbers as (B, width), zero behind a row's end."""
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows])
