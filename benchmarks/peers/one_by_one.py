"""How people explain a text without a library of ours: captum or `.backward()`, one text at a time.

Both explain what we explain, the mean logit of the answer's own tokens, and end with one score a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from understudy.schemas import AttributionExample

__all__ = ["OneByOne"]


class OneByOne:
    """All parameters require gradients, as they do in a model that somebody has just loaded."""

    def __init__(self, folder: Path, examples: Sequence[AttributionExample]) -> None:
        self._model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval().requires_grad_(True)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._examples = examples

    def captum(self) -> list[Tensor]:
        """captum's Saliency, which asks autograd for the gradient of its input alone."""
        from captum.attr import Saliency

        saliency = Saliency(self._score)
        found = []
        for example in self._examples:
            embeds, mask, labels = self._encoded(example)
            scores = saliency.attribute(embeds.requires_grad_(), additional_forward_args=(mask, labels))
            found.append(scores[0].sum(-1))
        return found

    def backward(self) -> list[Tensor]:
        """`.backward()`, which computes the gradient of every weight too."""
        found = []
        for example in self._examples:
            embeds, mask, labels = self._encoded(example)
            embeds.requires_grad_()
            self._model.zero_grad()
            self._score(embeds, mask, labels).sum().backward()
            assert embeds.grad is not None
            found.append(embeds.grad[0].abs().sum(-1))
        return found

    def _encoded(self, example: AttributionExample) -> tuple[Tensor, Tensor, Tensor]:
        given = self._tokenizer(example.input, return_tensors="pt")
        labels = self._tokenizer(text_target=example.output, return_tensors="pt")["input_ids"]
        embeds = self._model.get_encoder().get_input_embeddings()(given["input_ids"]).detach()  # (1, T, D)
        return embeds, given["attention_mask"], labels

    def _score(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        logits = self._model(inputs_embeds=embeds, attention_mask=mask, labels=labels, use_cache=False).logits
        return logits[:, :-1].gather(-1, labels[:, :-1, None]).squeeze(-1).mean(-1)  # without the token that ends it
