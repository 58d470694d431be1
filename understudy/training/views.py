"""Views: what one annotated example becomes before a model is trained on it. Token ids, no tensors, no losses.

The label view is the example in the student's template with its answer. The explanation view asks for the teacher's
words instead. Gate targets say of each token whether it belongs to one of those words, the distribution is what the
teacher thought of every candidate answer. All tokens come from the student's adapter, the same code that serves it.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from understudy.attribution.rationale import top_words
from understudy.errors import InvalidRequest
from understudy.models.base import Adapter
from understudy.models.likelihood import IGNORE
from understudy.schemas import Attribution, Example, TaskSpec, Word
from understudy.training.recipes import Recipe

__all__ = [
    "EXPLAIN",
    "PREDICT",
    "Instance",
    "Row",
    "Side",
    "build_instances",
    "chosen_words",
    "label_template",
    "select_rows",
]

PREDICT, EXPLAIN = "predict: ", "explain: "
"""The prefixes of the two tasks, as in Distilling Step-by-Step (arXiv 2305.02301)."""

_CHUNK = 256  # texts encoded at once: bounds the padding that is thrown away

Span = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """An example, and what the teacher said of it where it was asked."""

    example: Example
    attribution: Attribution | None = None


@dataclass(frozen=True)
class Side:
    """A text with its target, unpadded. `labels` is one class id for a classifier, aligned with `ids` for a decoder."""

    ids: list[int]
    labels: list[int]
    spans: list[Span | None]
    truncated: int


@dataclass(frozen=True)
class Instance:
    """What one example trains. None stands for what the recipe does not read, or the annotation does not have.

    `gate` is 1 for a token of a reason, 0 for another token of the text, None for a token that is no part of it.
    `distribution` goes with `candidates` (token ids of each) or, for a classifier, with its classes.
    """

    label: Side
    explanation: Side | None = None
    gate: list[int | None] | None = None
    distribution: list[float] | None = None
    candidates: list[list[int]] | None = None


def select_rows(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """The `limit` rows with the smallest content hashes, in their own order: the same for every arm and seed."""
    if limit is None or limit >= len(rows):
        return list(rows)
    ranked = sorted(range(len(rows)), key=lambda i: _digest(rows[i].example.input, rows[i].example.output))
    return [rows[i] for i in sorted(ranked[:limit])]


def label_template(recipe: Recipe, task: TaskSpec) -> TaskSpec:
    """The task as the student is asked it: a student with two tasks is told which one is meant."""
    if "explanation" not in recipe.terms:
        return task
    return TaskSpec.model_validate({**task.model_dump(), "template": PREDICT + task.template})


def chosen_words(row: Row, recipe: Recipe, seed: int, top_k: int) -> list[Word]:
    """The words that a row's recipe trains on, in reading order: the teacher's, or as many at random.

    The draw depends on the seed and the example's id alone: not on the other rows, nor on their order.
    """
    if row.attribution is None:
        return []
    words = top_words(row.attribution.rationale, top_k)
    if not recipe.random_words:
        return list(words)
    every = row.attribution.words
    draw = random.Random(_digest(str(seed), row.example.id))
    return sorted(draw.sample(every, min(len(words), len(every))), key=lambda word: word.start)


def build_instances(adapter: Adapter, rows: Sequence[Row], recipe: Recipe, *, seed: int, top_k: int) -> list[Instance]:
    """Every row as the recipe trains it, in order. The adapter's task is the label view's.

    Raises InvalidRequest where no row at all has what the recipe reads.
    """
    labels = _sides(adapter, [row.example.input for row in rows], [row.example.output for row in rows])
    words = [chosen_words(row, recipe, seed, top_k) if recipe.reads_words else [] for row in rows]
    explanations = _explanations(adapter, rows, words) if "explanation" in recipe.terms else [None] * len(rows)
    targets = _targets(adapter, rows) if recipe.reads_distribution else {}
    instances = []
    for row, label, named, explanation in zip(rows, labels, words, explanations, strict=True):
        distribution = _distribution(adapter, row) if recipe.reads_distribution else None
        instances.append(
            Instance(
                label=label,
                explanation=explanation,
                gate=_gate(label.spans, named) if "gate" in recipe.terms and named else None,
                distribution=list(distribution.values()) if distribution else None,
                candidates=[targets[name] for name in distribution] if distribution and targets else None,
            )
        )
    _check(instances, words, recipe)
    return instances


def _check(instances: Sequence[Instance], words: Sequence[Sequence[Word]], recipe: Recipe) -> None:
    if recipe.reads_words and not any(words):
        raise InvalidRequest(f"{recipe.name} reads the teacher's words, and no training row has any", param="recipe")
    if recipe.reads_distribution and not any(one.distribution for one in instances):
        raise InvalidRequest(
            f"{recipe.name} reads the teacher's probabilities of every candidate answer, and no training row has them: "
            "annotate with the task's labels or choices",
            param="recipe",
        )


def _explanations(adapter: Adapter, rows: Sequence[Row], words: Sequence[Sequence[Word]]) -> list[Side | None]:
    """The second task's sides; `adapter` is the label view's, whose prefix gives way to the explanation's."""
    explaining = adapter.with_template(EXPLAIN + adapter.task.template.removeprefix(PREDICT))
    places = [i for i, named in enumerate(words) if named]
    texts = [rows[i].example.input for i in places]
    sides = _sides(explaining, texts, [" ".join(word.text for word in words[i]) for i in places])
    found: list[Side | None] = [None] * len(rows)
    for place, side in zip(places, sides, strict=True):
        found[place] = side
    return found


def _gate(spans: Sequence[Span | None], words: Sequence[Word]) -> list[int | None]:
    """A token belongs to a reason when it shares a character with one of its words."""
    return [span and int(any(span[0] < word.end and word.start < span[1] for word in words)) for span in spans]


def _order(adapter: Adapter, row: Row) -> list[str]:
    """A row's candidate answers: the classes of a classifier, its own choices, or the label set."""
    return list(getattr(adapter, "label_ids", None) or dict.fromkeys(row.example.choices or adapter.task.labels))


def _distribution(adapter: Adapter, row: Row) -> dict[str, float] | None:
    """The teacher's probability of each candidate, in the student's order; None unless it spoke of exactly these."""
    known = row.attribution.probabilities if row.attribution else None
    order = _order(adapter, row)
    if not known or set(known) != set(order):
        return None
    return {name: known[name] for name in order}


def _targets(adapter: Adapter, rows: Sequence[Row]) -> dict[str, list[int]]:
    """Token ids of every candidate that occurs, each tokenised once; nothing for a classifier, which has classes."""
    if adapter.architecture == "classifier":
        return {}
    names = list(dict.fromkeys(name for row in rows for name in _order(adapter, row)))
    sides = _sides(adapter, [rows[0].example.input] * len(names), names)
    return {name: side.labels for name, side in zip(names, sides, strict=True)}


def _sides(adapter: Adapter, texts: Sequence[str], targets: Sequence[str]) -> list[Side]:
    """Tokenise texts and targets as the adapter does, and take the padding off again."""
    return [
        side
        for start in range(0, len(texts), _CHUNK)
        for side in _encoded(adapter, texts[start : start + _CHUNK], targets[start : start + _CHUNK])
    ]


def _encoded(adapter: Adapter, texts: Sequence[str], targets: Sequence[str]) -> Iterator[Side]:
    decoder = adapter.architecture == "causal"
    if decoder:
        # Room for the end of the text, which an adapter does not explain but a model must learn.
        adapter = copy.copy(adapter)
        adapter.max_tokens -= 1
    batch = adapter.encode(texts, targets)
    for row, labels in zip(batch.encoded, batch.labels.tolist(), strict=True):
        target = [label for label in labels if label != IGNORE]
        if decoder:
            whole = [*row.ids, *target], [*[IGNORE] * len(row.ids), *target], [*row.offsets, *[None] * len(target)]
            yield _ended(Side(*whole, row.truncated), adapter.tokenizer.eos_token_id)
        else:
            yield Side(row.ids, target, row.offsets, row.truncated)


def _ended(side: Side, end: int | None) -> Side:
    """A decoder's text with the end of the text behind it, as a target."""
    if end is None:
        return side
    return Side([*side.ids, end], [*side.labels, end], [*side.spans, None], side.truncated)


def _digest(*parts: str) -> int:
    text = "\x00".join(parts).encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
