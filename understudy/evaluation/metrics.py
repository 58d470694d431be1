"""Accuracy, its interval, and what chance alone would get. Plain arithmetic: no torch, no models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist

from understudy.schemas import Example, TaskSpec
from understudy.training.answers import is_right

__all__ = ["baseline", "chance_of_a_hit", "correctness", "wilson"]

CONFIDENCE = 0.95


def correctness(task: TaskSpec, given: Sequence[str], examples: Sequence[Example]) -> list[bool]:
    """Whether each answer is right, in the examples' order."""
    return [is_right(task, answer, example.output) for answer, example in zip(given, examples, strict=True)]


def wilson(right: float, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval of a share: honest near 0 and 1 and for few examples, where the normal one is not."""
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return max(0.0, centre - half), min(1.0, centre + half)


def baseline(task: TaskSpec, train_outputs: Sequence[str], test: Sequence[Example]) -> tuple[str, float]:
    """What a model that reads nothing gets: its description, and its accuracy on the test split.

    The commonest training answer for every row, or one of the row's own choices at random.
    """
    if not test:
        return "no test rows", 0.0
    if task.kind == "choice":
        expected = [1 / len(example.choices) if example.choices else 0.0 for example in test]
        return "a random one of the choices", sum(expected) / len(test)
    if not train_outputs:
        return "no training rows", 0.0
    commonest = min(Counter(train_outputs).items(), key=lambda item: (-item[1], item[0]))[0]
    right = correctness(task, [commonest] * len(test), test)
    return f"always '{commonest}'", sum(right) / len(test)


def chance_of_a_hit(words: int, answer_words: int, drawn: int) -> float:
    """How probable it is that `drawn` random words of `words` hold at least one of the `answer_words` (exact)."""
    drawn = min(drawn, words)
    return 1 - math.comb(words - answer_words, drawn) / math.comb(words, drawn)
