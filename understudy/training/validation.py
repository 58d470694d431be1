"""Validation during training: how many rows a model gets right, and how sure it was of the right answer.

Asks through the adapter, as serving does. Knows nothing of when it is called, or why.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from understudy.errors import InvalidRequest
from understudy.models.base import Adapter, Answer
from understudy.models.forms import compose
from understudy.schemas import Example
from understudy.training.answers import is_right

__all__ = ["MAX_SCORED", "MAX_WRITTEN", "Validation", "validate", "validation_rows"]

MAX_SCORED = 1000
MAX_WRITTEN = 200
"""Rows of one validation, where answers are scored and where they are written, which is slower by far."""

_LEAST = 1e-12  # a gold answer of probability 0 must not make the loss infinite


@dataclass(frozen=True)
class Validation:
    accuracy: float
    loss: float

    @property
    def rank(self) -> float:
        """One number that orders by accuracy and, where that is equal, by loss.

        A row more is at least 1 / MAX_SCORED = 1e-3; the loss moves the rank by less than 1e-4.
        """
        return self.accuracy - 1e-4 * self.loss / (1 + self.loss)


def validation_rows(examples: Sequence[Example], kind: str) -> list[Example]:
    """The rows that are asked each time: all, or those with the smallest hashes where there are too many."""
    if not examples:
        raise InvalidRequest(
            "the validation split is empty, and the best checkpoint is chosen on it", param="validation"
        )
    limit = MAX_WRITTEN if kind == "generation" else MAX_SCORED
    ranked = sorted(examples, key=lambda one: hashlib.sha256(one.input.encode("utf-8", "backslashreplace")).digest())
    return ranked[:limit]


def validate(adapter: Adapter, examples: Sequence[Example]) -> Validation:
    """Accuracy, and the mean negative log-probability of the right answer (among the candidates, if there are any).

    A row with an answer that does not fit into the model's window is wrong, and its right answer as good as impossible.
    """
    asked = [example for example in examples if _fits(adapter, example)]
    answers = adapter.answers([example.input for example in asked], [example.choices for example in asked])
    right = sum(
        is_right(adapter.task, answer.text, example.output) for answer, example in zip(answers, asked, strict=True)
    )
    lost = -math.log(_LEAST) * (len(examples) - len(asked))
    return Validation(right / len(examples), (_loss(adapter, asked, answers) + lost) / len(examples))


def _fits(adapter: Adapter, example: Example) -> bool:
    """Whether all that the row asks for can be scored. The labels of a closed set were taught, so they can be."""
    if adapter.task.kind == "classification":
        return True
    return all(adapter.fits(compose(adapter.form, text, [])) for text in (example.output, *(example.choices or ())))


def _loss(adapter: Adapter, examples: Sequence[Example], answers: Sequence[Answer]) -> float:
    """The sum over the examples."""
    if adapter.task.kind == "generation":
        gold = adapter.log_likelihoods([one.input for one in examples], [[one.output] for one in examples])
        return -sum(row[0] for row in gold)
    known = [(answer.probabilities or {}).get(one.output, 0.0) for answer, one in zip(answers, examples, strict=True)]
    return -sum(math.log(max(probability, _LEAST)) for probability in known)
