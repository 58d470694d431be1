"""Attributions of many examples at once: batches, methods, words and rationales put together.

The order of the examples, and what shares a batch with what, never matter: batches are planned by length, every score
is an example's own, and results come back in the caller's order. Knows no architecture, no service and no store.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch

from understudy.attribution.aggregate import word_scores
from understudy.attribution.faithfulness import faithfulness
from understudy.attribution.methods import Method, make_method
from understudy.attribution.rationale import select
from understudy.attribution.targets import compared, explained
from understudy.attribution.words import word_spans
from understudy.batching import plan_batches
from understudy.errors import InvalidRequest, ModelError
from understudy.models.base import Adapter, Batch
from understudy.models.embeddings import reads_embeddings
from understudy.models.passes import out_of_memory
from understudy.models.text import Encoded
from understudy.schemas import (
    Attribution,
    AttributionExample,
    AttributionOptions,
    Faithfulness,
    Prediction,
    TokenProbabilities,
    TokenRow,
    Word,
)

__all__ = ["as_prediction", "attribute", "check_rows"]


def attribute(
    adapter: Adapter,
    examples: Sequence[AttributionExample],
    options: AttributionOptions | None = None,
    *,
    max_padded_tokens: int | None = None,
    field: str = "examples",
) -> list[Attribution]:
    """Score the words of each example for its target, in the caller's order.

    A pass takes `max_padded_tokens`, or as many as the adapter says. `field` is what errors call the examples. Raises
    UnknownName, InvalidRequest for a target that is missing or impossible, for settings that the method does not have,
    for a model that answers from reasons it has written and for the tokens of one that does not write, and ModelError
    where the model's numbers are not finite or one example alone does not fit into the device's memory.
    """
    asked = options or AttributionOptions()
    method = make_method(asked.method, asked.settings)
    check_rows(asked, method)
    if adapter.form == "rationale_then_label":
        raise InvalidRequest(
            "this model writes its reasons and reads its answer from them: no map of the input alone explains that "
            "answer. Ask it for predictions with reasons, or explain a model that writes its label first",
            param="model",
        )
    adapter = adapter.with_template(asked.template)
    texts = [example.input for example in examples]
    closed = [list(example.choices or asked.labels or adapter.task.labels) for example in examples]
    known = explained(examples, asked, closed, None, field)
    compared(examples, asked, closed, known, field)  # refuse before the model has worked
    answers = adapter.answers(texts, closed) if asked.predict else None
    targets = known or explained(examples, asked, closed, [answer.text for answer in answers or ()], field) or []
    others = compared(examples, asked, closed, targets, field)
    work = _Work(adapter, method, asked, texts, adapter.tokenize(texts), targets, others, field)
    maps: dict[int, _Map] = {}
    for positions in work.batches(max_padded_tokens or adapter.max_padded_tokens):
        maps.update(work.explain(positions))
    found = [maps[i] for i in range(len(texts))]
    expected: Sequence[tuple[TokenProbabilities, ...] | None] = [None] * len(texts)
    if asked.token_probabilities:
        expected = adapter.token_probabilities([one.read for one in found], targets, asked.token_probabilities)
        for i, row in enumerate(expected):
            _finite(sum(place.rest for place in row or ()), f"{field}[{i}]")
    rationales = [select(one.words, asked) for one in found]
    faithful: Sequence[Faithfulness | None] = [None] * len(texts)
    if asked.faithfulness:
        read, words = [one.read for one in found], [one.words for one in found]
        faithful = [
            measured.model_copy(update={"completeness_error": one.completeness_error})
            for one, measured in zip(
                found, faithfulness(adapter, read, words, rationales, targets, closed), strict=True
            )
        ]
    return [
        Attribution(
            id=examples[i].id,
            prediction=answers[i].text if answers else None,
            probability=_finite(answers[i].probability, f"{field}[{i}]") if answers else None,
            probabilities=answers[i].probabilities if answers else None,
            explained=targets[i],
            against=others[i] if others else None,
            words=one.words,
            rationale=rationales[i],
            rows=one.rows,
            faithfulness=faithful[i],
            token_probabilities=expected[i],
            tokens=len(one.read.ids),
            truncated=one.read.truncated,
            unfinished=answers is not None and answers[i].unfinished,
        )
        for i, one in enumerate(found)
    ]


def check_rows(options: AttributionOptions, method: Method) -> None:
    """Raise InvalidRequest where a row for each token is asked of a method that has none."""
    if options.rows and not hasattr(method, "rows"):
        raise InvalidRequest(
            f"the method '{options.method}' has no rows for the tokens of an answer: choose another, such as saliency",
            param="rows",
        )


def as_prediction(found: Attribution) -> Prediction:
    """The answer that an attribution explains, with its rationale as the words behind it."""
    assert found.prediction is not None  # it was asked for
    assert found.probability is not None
    return Prediction(
        id=found.id,
        label=found.prediction,
        probability=found.probability,
        probabilities=found.probabilities,
        words=found.rationale,
        truncated=found.truncated,
        unfinished=found.unfinished,
    )


@dataclass(frozen=True)
class _Map:
    """`read` is the text as the model read it: an answer behind it can take tokens off its end."""

    read: Encoded
    words: tuple[Word, ...]
    rows: tuple[TokenRow, ...] | None
    completeness_error: float | None


@dataclass(frozen=True)
class _Work:
    """One call's examples, and how their maps are made."""

    adapter: Adapter
    method: Method
    options: AttributionOptions
    texts: Sequence[str]
    encoded: Sequence[Encoded]
    targets: Sequence[str]
    others: Sequence[str] | None
    field: str

    def batches(self, max_padded_tokens: int) -> Iterator[list[int]]:
        """Positions that share a pass: of similar length and, where each token has its row, with as many of them."""
        answers = self._answers()
        groups: dict[int, list[int]] = {}
        columns: dict[str, int] = {}
        for i, target in enumerate(self.targets):
            if self.options.rows and target not in columns:
                alone = self.adapter.collate([self.encoded[i]], [self.texts[i]], [target])
                columns[target] = alone.labels.shape[1]
            groups.setdefault(columns.get(target, 0), []).append(i)
        for group in groups.values():
            for places in plan_batches([len(self.encoded[i].ids) + answers[i] for i in group], max_padded_tokens):
                yield from self._parts([group[place] for place in places], answers)

    def _answers(self) -> list[int]:
        """Tokens of what is explained of each example, and of what that is compared with."""
        answers = [self.targets] if self.others is None else [self.targets, self.others]
        known = {answer: self.adapter.answer_length(answer) for answer in {*chain(*answers)}}
        return [sum(map(known.__getitem__, pair)) for pair in zip(*answers, strict=True)]

    def _parts(self, positions: Sequence[int], answers: Sequence[int]) -> Iterator[list[int]]:
        """The same positions in order, parted where the logits of so many answers would take too much memory."""
        part: list[int] = []
        longest = 0
        for i in positions:
            longest = max(longest, answers[i])
            if part and len(part) >= self.adapter.most_rows(longest):
                yield part
                part, longest = [], answers[i]
            part.append(i)
        yield part

    def explain(self, positions: Sequence[int]) -> Iterator[tuple[int, _Map]]:
        """The map of each position; a batch that does not fit into memory is halved."""
        batch = self._batch(positions)
        self._check_embeddings(batch)
        try:
            found = self._maps(batch, positions)
        except torch.OutOfMemoryError:
            out_of_memory.add()
            found = None  # what the traceback holds must be free before the halves are tried
        if found is not None:
            yield from zip(positions, found, strict=True)
            return
        half = len(positions) // 2
        if half == 0:
            param = f"{self.field}[{positions[0]}].input"
            raise ModelError(f"{param}: {batch.ids.shape[1]} tokens do not fit into the device's memory", param=param)
        del batch
        yield from self.explain(positions[:half])
        yield from self.explain(positions[half:])

    def _check_embeddings(self, batch: Batch) -> None:
        """Raise ModelError for a model whose answer to embeddings is not its answer to the text."""
        ids = batch.ids[:1, batch.mask[0].bool()]
        if ids.shape[1] and not reads_embeddings(self.adapter.model, ids, self.adapter.embed(ids)):
            kind = type(self.adapter.model).__name__
            raise ModelError(
                f"{kind} answers otherwise to the embeddings of a text than to the text: a map made at its embeddings "
                "would explain another function. Explain with a model of another family",
                param="model",
            )

    def _batch(self, positions: Sequence[int]) -> Batch:
        batch = self.adapter.collate(
            [self.encoded[i] for i in positions],
            [self.texts[i] for i in positions],
            [self.targets[i] for i in positions],
            None if self.others is None else [self.others[i] for i in positions],
        )
        punctuation = "punctuation" not in self.options.ignore
        spans = [_read(text, row, punctuation) for text, row in zip(batch.texts, batch.encoded, strict=True)]
        return replace(batch, words=tuple(map(tuple, spans)))

    def _maps(self, batch: Batch, positions: Sequence[int]) -> list[_Map]:
        scores, rows = self._scores(batch)
        errors = self._completeness(batch, scores)
        tokens = [] if rows is None else self.adapter.target_tokens(batch)
        return [
            _Map(
                read=batch.encoded[place],
                words=self._words(batch, place, values, position),
                rows=None
                if rows is None
                else tuple(
                    TokenRow(token=token, scores=self._aggregated(batch, place, row[place], position))
                    for token, row in zip(tokens[place], _own_rows(self.adapter, batch, place, rows), strict=True)
                ),
                completeness_error=errors[place],
            )
            for place, (position, values) in enumerate(zip(positions, scores.double().tolist(), strict=True))
        ]

    def _scores(self, batch: Batch) -> tuple[torch.Tensor, list[list[list[float]]] | None]:
        """(B, T), or (B, W) for words, and the same for each column of the targets where rows were asked for."""
        method: Any = self.method
        if not self.options.rows:
            return method(self.adapter, batch), None
        if hasattr(method, "map_and_rows"):
            scores, rows = method.map_and_rows(self.adapter, batch)
        else:
            scores, rows = method(self.adapter, batch), method.rows(self.adapter, batch)
        return scores, rows.double().tolist()

    def _words(self, batch: Batch, place: int, values: Sequence[float], position: int) -> tuple[Word, ...]:
        text = batch.texts[place]
        return tuple(
            Word(text=text[start:end], start=start, end=end, score=score)
            for (start, end), score in zip(
                batch.words[place], self._aggregated(batch, place, values, position), strict=True
            )
        )

    def _aggregated(self, batch: Batch, place: int, values: Sequence[float], position: int) -> tuple[float, ...]:
        """One score a word."""
        spans = batch.words[place]
        finite = [_finite(value, f"{self.field}[{position}]") for value in values]
        if self.method.unit == "word":
            return tuple(finite[: len(spans)])
        return tuple(word_scores(spans, batch.offsets[place], finite, self.options.aggregation))

    def _completeness(self, batch: Batch, scores: torch.Tensor) -> list[float | None]:
        """The share of the objective's change that the scores miss, where the method promises to miss none."""
        if not (self.options.faithfulness and self.method.complete):
            return [None] * len(batch.texts)
        objective = self.adapter.objective(batch)
        with torch.inference_mode():
            change = objective(self.adapter.embed(batch.ids), *batch.rows) - objective(
                self.adapter.baseline(batch), *batch.rows
            )
        gaps = (scores.double().sum(-1) - change.double()).abs() / change.double().abs()
        return [gap if math.isfinite(gap) else None for gap in gaps.tolist()]


def _own_rows(
    adapter: Adapter, batch: Batch, place: int, rows: Sequence[Sequence[Sequence[float]]]
) -> list[Sequence[Sequence[float]]]:
    """The rows of one example's own target tokens, of those for every column of the batch's targets."""
    return [row for row, own in zip(rows, adapter.own(batch.labels)[place].tolist(), strict=True) if own]


def _read(text: str, row: Encoded, punctuation: bool) -> list[tuple[int, int]]:
    """The words that the model has read: those that begin before the cut, where there is one."""
    cut = max((span[1] for span in row.offsets if span), default=0) if row.truncated else len(text)
    return [span for span in word_spans(text, punctuation=punctuation) if span[0] < cut]


def _finite(value: float, param: str) -> float:
    """A number that is no number would poison every sum behind it, so it never leaves."""
    if not math.isfinite(value):
        raise ModelError(f"{param}: the model's numbers are not finite (overflow?): try float32", param=param)
    return value
