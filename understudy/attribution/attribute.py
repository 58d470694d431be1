"""Attributions of many examples at once: batches, methods, words and rationales put together.

The order of the examples, and what shares a batch with what, never matter: batches are planned by length, every score
is an example's own, and results come back in the caller's order. Knows no architecture, no service and no store.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from understudy.attribution.aggregate import word_scores
from understudy.attribution.methods import METHODS, Method
from understudy.attribution.rationale import top_words
from understudy.attribution.targets import TARGETS
from understudy.attribution.words import word_spans
from understudy.batching import plan_batches
from understudy.errors import ModelError
from understudy.models.base import Adapter, Batch
from understudy.schemas import Attribution, AttributionExample, Prediction, Word

__all__ = ["as_prediction", "attribute"]


def attribute(
    adapter: Adapter,
    examples: Sequence[AttributionExample],
    *,
    method: str | Method = "saliency",
    target: Literal["gold", "predicted"] = "gold",
    labels: Sequence[str] | None = None,
    top_k: int = 5,
    max_padded_tokens: int = 2048,
    field: str = "examples",
) -> list[Attribution]:
    """Score the words of each example for its target, in the caller's order.

    `labels` is the closed set of answers where an example has no choices of its own; the default is the task's. A
    method with settings is passed as an object: `IntegratedGradients(n_steps=50)`. `field` is what errors call the
    examples. Raises UnknownName, InvalidRequest for a target that is missing or impossible, and ModelError where the
    model's numbers are not finite.
    """
    explain = METHODS.get(method, param="method")() if isinstance(method, str) else method
    find_target = TARGETS.get(target, param="target")
    closed = [list(example.choices or labels or adapter.task.labels) for example in examples]
    if target == "gold":
        find_target(examples, [], closed)  # refuse before the model has worked
    texts = [example.input for example in examples]
    answers = adapter.answers(texts, closed)
    explained = find_target(examples, [answer.text for answer in answers], closed)
    lengths = adapter.lengths(texts)
    found: dict[int, Attribution] = {}
    for positions in plan_batches(lengths, max_padded_tokens):
        for i, words, truncated in _explain(adapter, explain, texts, explained, positions, field):
            found[i] = Attribution(
                id=examples[i].id,
                prediction=answers[i].text,
                probability=_finite(answers[i].probability, f"{field}[{i}]"),
                probabilities=answers[i].probabilities,
                explained=explained[i],
                words=words,
                rationale=top_words(words, top_k),
                tokens=lengths[i],
                truncated=truncated,
            )
    return [found[i] for i in range(len(examples))]


def as_prediction(found: Attribution) -> Prediction:
    """The answer that an attribution explains, with its rationale as the words behind it."""
    return Prediction(
        id=found.id,
        label=found.prediction,
        probability=found.probability,
        probabilities=found.probabilities,
        words=found.rationale,
        truncated=found.truncated,
    )


def _explain(
    adapter: Adapter,
    method: Method,
    texts: Sequence[str],
    targets: Sequence[str],
    positions: Sequence[int],
    field: str,
) -> Iterator[tuple[int, tuple[Word, ...], int]]:
    """The words of each position and the tokens it lost; a batch that does not fit into memory is halved."""
    batch = adapter.encode([texts[i] for i in positions], [targets[i] for i in positions])
    scores = _scores(adapter, method, batch)
    if scores is None:
        half = len(positions) // 2
        if half == 0:
            param = f"{field}[{positions[0]}].input"
            raise ModelError(f"{param}: {batch.ids.shape[1]} tokens do not fit into the device's memory", param=param)
        yield from _explain(adapter, method, texts, targets, positions[:half], field)
        yield from _explain(adapter, method, texts, targets, positions[half:], field)
        return
    for row, i in enumerate(positions):
        yield i, _words(batch, row, [_finite(score, f"{field}[{i}]") for score in scores[row]]), batch.truncated[row]


def _scores(adapter: Adapter, method: Method, batch: Batch) -> list[list[float]] | None:
    """One score a token, or None where the device's memory ran out."""
    try:
        return [list(row) for row in method(adapter, batch).double().tolist()]
    except torch.OutOfMemoryError:
        return None


def _words(batch: Batch, row: int, scores: Sequence[float]) -> tuple[Word, ...]:
    """The words that the model has read, in reading order: those that begin before the cut, where there is one."""
    text = batch.texts[row]
    cut = max((span[1] for span in batch.offsets[row] if span), default=0) if batch.truncated[row] else len(text)
    spans = [span for span in word_spans(text) if span[0] < cut]
    return tuple(
        Word(text=text[start:end], start=start, end=end, score=score)
        for (start, end), score in zip(spans, word_scores(spans, batch.offsets[row], scores), strict=True)
    )


def _finite(value: float, param: str) -> float:
    """A number that is no number would poison every sum behind it, so it never leaves."""
    if not math.isfinite(value):
        raise ModelError(f"{param}: the model's numbers are not finite; load it in float32", param=param)
    return value
