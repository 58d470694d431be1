"""Views: what one annotated example becomes before a model is trained on it. Token ids, no tensors, no losses.

The label view is the example in the student's template with what it has to write: its answer, in some recipes with the
teacher's words. Beside it stand, as the recipe asks, a second task (the explanation), the words alone as one more
input, marks that say of each token whether it belongs to a reason, the teacher's score of each word, and its
probability of every candidate answer. All tokens come from the student's adapter, the same code that serves it.
"""

from __future__ import annotations

import copy
import hashlib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from understudy.attribution.rationale import top_words
from understudy.errors import InvalidRequest, ModelError
from understudy.models.base import Adapter
from understudy.models.causal import CausalAdapter
from understudy.models.forms import compose
from understudy.models.likelihood import IGNORE
from understudy.schemas import Attribution, Example, TaskSpec, Word
from understudy.training.recipes import Recipe

__all__ = [
    "EXPLAIN",
    "PREDICT",
    "Instance",
    "Map",
    "Place",
    "Row",
    "Side",
    "build_instances",
    "chosen_words",
    "label_template",
    "select_rows",
    "word_scores",
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
class Map:
    """A teacher's map in the student's tokens: `owners[t]` is the word of token t, `scores` one share a word.

    The scores are at least 0, and their squares sum to 1. Words that the student's window cut off are not among them.
    """

    owners: list[int | None]
    scores: list[float]


@dataclass(frozen=True)
class Place:
    """Tokens of the student's vocabulary with the teacher's probabilities of them, all above 0; there may be none."""

    ids: list[int]
    probabilities: list[float]


@dataclass(frozen=True)
class Instance:
    """What one example trains. None stands for what the recipe does not read, or the annotation does not have.

    `marks` are 1 for a token of a reason, 0 for another token of the text, None for a token that is no part of it.
    `distribution` goes with `candidates`, each one's target; a classifier has its classes. They follow the label view's
    input, for a decoder the `prompt`, which leaves room for the longest of them. `expected` is its like for an open
    answer: of each of the target's tokens in order what the teacher expected there.
    """

    label: Side
    explanation: Side | None = None
    input: Side | None = None
    marks: list[int | None] | None = None
    map: Map | None = None
    distribution: list[float] | None = None
    candidates: list[list[int]] | None = None
    prompt: list[int] | None = None
    expected: list[Place] | None = None

    @property
    def length(self) -> int:
        """Tokens of the text that the label view reads; what is written behind it differs from recipe to recipe."""
        return self.label.labels.count(IGNORE) or len(self.label.ids)

    @property
    def has_reasons(self) -> bool:
        return any(one is not None for one in (self.explanation, self.input, self.marks, self.map))


def select_rows(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """The `limit` rows with the smallest content hashes, in their own order: the same for every arm and seed."""
    if limit is None or limit >= len(rows):
        return list(rows)
    ranked = sorted(range(len(rows)), key=lambda i: _digest(rows[i].example.input, rows[i].example.output))
    return [rows[i] for i in sorted(ranked[:limit])]


def label_template(recipe: Recipe, task: TaskSpec, architecture: str) -> TaskSpec:
    """The task as the student is asked it: a student with two tasks is told which one is meant."""
    if "explanation" not in recipe.terms(architecture):
        return task
    return TaskSpec.model_validate({**task.model_dump(), "template": PREDICT + task.template})


def chosen_words(row: Row, recipe: Recipe, seed: int, top_k: int) -> list[Word]:
    """The words that a row's recipe trains on: the teacher's in reading order, or those of a control.

    A draw depends on the seed and the example's id alone: not on the other rows, nor on their order.
    """
    if row.attribution is None:
        return []
    whole = row.attribution.rationale
    # What was selected stays as it is, also words between others that speak for nothing by themselves.
    words = list(whole if len(whole) <= top_k else top_words(whole, top_k))
    draw = random.Random(_digest(str(seed), row.example.id))
    if recipe.variant == "shuffled_rationale":
        return draw.sample(words, len(words))
    if recipe.variant == "random_rationale":
        every = row.attribution.words
        return sorted(draw.sample(every, min(len(words), len(every))), key=lambda word: word.start)
    return words


def word_scores(row: Row, recipe: Recipe, seed: int) -> list[Word]:
    """All words with the teacher's scores; in the control the same scores, dealt out among the words at random."""
    words = list(row.attribution.words) if row.attribution else []
    if not recipe.random_words:
        return words
    scores = [word.score for word in words]
    random.Random(_digest(str(seed), row.example.id)).shuffle(scores)
    return [word.model_copy(update={"score": score}) for word, score in zip(words, scores, strict=True)]


def build_instances(adapter: Adapter, rows: Sequence[Row], recipe: Recipe, *, seed: int, top_k: int) -> list[Instance]:
    """Every row as the recipe trains it, in order. The adapter's task is the label view's.

    Raises InvalidRequest where no row at all has what the recipe reads.
    """
    terms = recipe.terms(adapter.architecture)
    nothing: list[None] = [None] * len(rows)
    words = [chosen_words(row, recipe, seed, top_k) if recipe.reads("words") else [] for row in rows]
    if recipe.form != "label":
        words = [
            named if _leaves_room(adapter, row, recipe, named) else [] for row, named in zip(rows, words, strict=True)
        ]
    labels = _labels(adapter, rows, _written(recipe, rows, words))
    texts = [
        _named(named) or (row.example.rationale if recipe.reads("text") else None)
        for row, named in zip(rows, words, strict=True)
    ]
    explanations = _explanations(adapter, rows, texts) if "explanation" in terms else nothing
    inputs = _inputs(adapter, rows, texts) if "input" in terms else nothing
    maps = _maps(rows, labels, recipe, seed) if "alignment" in terms else nothing
    by_token = "distribution" in terms and adapter.task.kind == "generation"
    taught = _Distributions(adapter, rows, recipe, words) if "distribution" in terms and not by_token else None
    expected = _expected(adapter, rows, labels) if by_token else nothing
    instances = [
        Instance(
            label=label,
            explanation=explanations[i],
            input=inputs[i],
            marks=_marks(label.spans, words[i]) if terms & {"gate", "tags"} and words[i] else None,
            map=maps[i],
            distribution=taught.probabilities(i) if taught else None,
            candidates=taught.candidates(i) if taught else None,
            prompt=taught.prompt(i) if taught else None,
            expected=expected[i],
        )
        for i, label in enumerate(labels)
    ]
    _check(instances, words, texts, recipe)
    return instances


def _check(
    instances: Sequence[Instance], words: Sequence[Sequence[Word]], texts: Sequence[str | None], recipe: Recipe
) -> None:
    missing = None
    if recipe.reads("words") and not any(words):
        missing = "reads the teacher's words, and no training row has any"
    elif recipe.reads("scores") and not any(one.map for one in instances):
        missing = "reads the teacher's scores of the words, and no training row has any above 0"
    elif recipe.reads("text") and not any(texts):
        missing = "reads a free-text 'rationale', and no training row has any"
    elif recipe.reads("distribution") and not any(one.distribution or one.expected for one in instances):
        missing = (
            "reads the teacher's probabilities of every candidate answer, or of the tokens of an open one, and no "
            "training row has any that this student can use: annotate with the task's labels or choices; for an open "
            "task with token_probabilities, and take a student whose tokenizer is of the teacher's family, such as one "
            "cut from it"
        )
    if missing:
        raise InvalidRequest(f"{recipe.name} {missing}", param="recipe")


def _named(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


def _written(recipe: Recipe, rows: Sequence[Row], words: Sequence[Sequence[Word]]) -> list[str]:
    """What the student has to write in the label view."""
    return [
        compose(recipe.form, row.example.output, [word.text for word in named])
        for row, named in zip(rows, words, strict=True)
    ]


def _leaves_room(adapter: Adapter, row: Row, recipe: Recipe, words: Sequence[Word]) -> bool:
    """Whether each answer that the row is taught fits beside its words."""
    longest = max((row.example.output, *(row.example.choices or adapter.task.labels)), key=len)
    return not words or adapter.fits(compose(recipe.form, longest, [word.text for word in words]))


def _labels(adapter: Adapter, rows: Sequence[Row], targets: Sequence[str]) -> list[Side]:
    """The label view's sides. Raises ModelError, which names the row, for a target that does not fit."""
    try:
        return _sides(adapter, [row.example.input for row in rows], targets)
    except ModelError as error:
        for row, target in zip(rows, targets, strict=True):
            if not adapter.fits(target):
                raise ModelError(
                    f"the output of the training row '{row.example.id}' does not fit into the model's window, which "
                    f"has room for {adapter.target_room} tokens of it: shorten it, or take a model with a longer one",
                    param="output",
                ) from error
        raise


def _explanations(adapter: Adapter, rows: Sequence[Row], texts: Sequence[str | None]) -> list[Side | None]:
    """The second task's sides; `adapter` is the label view's, whose prefix gives way to the explanation's.

    None for a text that does not fit: a part of it would be learned with an end where it has none.
    """
    explaining = adapter.with_template(EXPLAIN + adapter.task.template.removeprefix(PREDICT))
    texts = [text if text and explaining.fits(text) else None for text in texts]
    return _where(
        texts, lambda given: _sides(explaining, [rows[i].example.input for i, _ in given], [text for _, text in given])
    )


def _inputs(adapter: Adapter, rows: Sequence[Row], texts: Sequence[str | None]) -> list[Side | None]:
    """The words alone in the place of the text, with the same answer."""
    return _where(
        texts, lambda given: _sides(adapter, [text for _, text in given], [rows[i].example.output for i, _ in given])
    )


def _where(
    texts: Sequence[str | None], make: Callable[[Sequence[tuple[int, str]]], Sequence[Side]]
) -> list[Side | None]:
    """Sides for the rows that have a text, None for the others."""
    given = [(i, text) for i, text in enumerate(texts) if text]
    found: list[Side | None] = [None] * len(texts)
    for (place, _), side in zip(given, make(given), strict=True):
        found[place] = side
    return found


def _marks(spans: Sequence[Span | None], words: Sequence[Word]) -> list[int | None]:
    """A token belongs to a reason when it shares a character with one of its words."""
    return [span and int(any(span[0] < word.end and word.start < span[1] for word in words)) for span in spans]


def _maps(rows: Sequence[Row], labels: Sequence[Side], recipe: Recipe, seed: int) -> list[Map | None]:
    return [_map(side.spans, word_scores(row, recipe, seed)) for row, side in zip(rows, labels, strict=True)]


def _map(spans: Sequence[Span | None], words: Sequence[Word]) -> Map | None:
    """None where no word that the student reads has a score above 0: words that spoke against the answer are none."""
    owners: list[int | None] = [None] * len(spans)
    ordered = sorted(words, key=lambda word: word.start)
    read: list[Word] = []
    place = 0
    for token, span in enumerate(spans):
        if span is None:
            continue
        while place < len(ordered) and ordered[place].end <= span[0]:
            place += 1
        if place < len(ordered) and ordered[place].start < span[1]:
            if not read or read[-1] is not ordered[place]:
                read.append(ordered[place])
            owners[token] = len(read) - 1
    scores = [max(0.0, word.score) for word in read]
    length = math.hypot(*scores)
    return Map(owners, [score / length for score in scores]) if length > 0 else None


def _expected(adapter: Adapter, rows: Sequence[Row], labels: Sequence[Side]) -> list[list[Place] | None]:
    """What the teacher expected at each token of each target; None where it cut that text into other tokens."""
    vocabulary = adapter.tokenizer.get_vocab()
    found: list[list[Place] | None] = []
    for row, side in zip(rows, labels, strict=True):
        said = (row.attribution.token_probabilities if row.attribution else None) or ()
        target = [label for label in side.labels if label != IGNORE]
        aligned = bool(said) and [vocabulary.get(one.token) for one in said] == target
        found.append([_place(vocabulary, one.probabilities) for one in said] if aligned else None)
    return found


def _place(vocabulary: Mapping[str, int], probabilities: Mapping[str, float]) -> Place:
    """The tokens that the student has too: a vocabulary that was trimmed lacks some."""
    known = {vocabulary[piece]: value for piece, value in probabilities.items() if value > 0 and piece in vocabulary}
    return Place(list(known), list(known.values()))


class _Distributions:
    """What the teacher thought of each row's candidate answers, and those answers as the student would write them.

    A candidate takes the place of the label in the row's own form: behind the same words where they come first.
    """

    def __init__(self, adapter: Adapter, rows: Sequence[Row], recipe: Recipe, words: Sequence[Sequence[Word]]) -> None:
        self._known = [_distribution(adapter, row) for row in rows]
        self._targets: dict[tuple[int, str], list[int]] = {}
        self._prompts: list[list[int]] = []
        if adapter.architecture == "classifier":
            return
        # A target does not depend on the text, unless the words are a part of it.
        self._alone = recipe.form != "rationale_then_label"
        wanted: dict[tuple[int, str], tuple[str, str]] = {}
        for i, known in enumerate(self._known):
            named = [word.text for word in words[i]] if recipe.form == "rationale_then_label" else []
            text = rows[0 if self._alone else i].example.input
            wanted |= {self._key(i, name): (text, compose(recipe.form, name, named)) for name in known or ()}
        sides = _sides(adapter, [text for text, _ in wanted.values()], [target for _, target in wanted.values()])
        if recipe.form == "label_then_rationale":  # the words are still to come
            sides = [_open(side, adapter.tokenizer.eos_token_id) for side in sides]
        targets = [[label for label in side.labels if label != IGNORE] for side in sides]
        self._targets = dict(zip(wanted, targets, strict=True))
        if isinstance(adapter, CausalAdapter):
            longest = [max(map(len, self.candidates(i) or [[0]])) for i in range(len(rows))]
            self._prompts = adapter.prompts([row.example.input for row in rows], longest)

    def _key(self, i: int, name: str) -> tuple[int, str]:
        return (0 if self._alone else i), name

    def probabilities(self, i: int) -> list[float] | None:
        known = self._known[i]
        return list(known.values()) if known else None

    def candidates(self, i: int) -> list[list[int]] | None:
        known = self._known[i]
        return [self._targets[self._key(i, name)] for name in known] if known and self._targets else None

    def prompt(self, i: int) -> list[int] | None:
        return self._prompts[i] if self._prompts and self._known[i] else None


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


def _open(side: Side, end: int | None) -> Side:
    """A side without the end of its text."""
    if not side.labels or side.labels[-1] != end:
        return side
    aligned = len(side.ids) == len(side.labels) == len(side.spans) and side.ids[-1] == end
    ids, spans = (side.ids[:-1], side.spans[:-1]) if aligned else (side.ids, side.spans)
    return Side(ids, side.labels[:-1], spans, side.truncated)


def _digest(*parts: str) -> int:
    text = "\x00".join(parts).encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
