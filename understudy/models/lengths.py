"""What can be told of a model's tokens before it is trained or loaded: its own tokenizer, its own window, no weights.

How long texts and targets are for it, which may differ by a few tokens from what a training reads where an
architecture puts words of its own around the text; and whether two models cut an answer into the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from understudy.artifacts import ArtifactStore
from understudy.models.causal import target_ids, target_room
from understudy.models.cut import layer_counts, named_ids
from understudy.models.load import load_card, window
from understudy.models.names import base_of, is_cut, parse_cut
from understudy.models.scratch import FAMILIES, PREFIX, build_config, corpus, parse_scratch, train_tokenizer
from understudy.models.seq2seq import decoder_ids
from understudy.models.source import Source, architecture
from understudy.models.text import Template, tokenize
from understudy.models.vocabulary import trim_for
from understudy.schemas import Example, TaskSpec

__all__ = ["Lengths", "Targets", "measure", "shared_answers", "targets"]

AROUND = 16
"""Tokens of a target's room that recipes may take: for a form's separator, for the prefix of one of two tasks."""


class Lengths(BaseModel):
    """Of `rows` texts in their template: `tokens` in all, of the `longest`, and how many rows exceed the `window`."""

    model_config = ConfigDict(frozen=True)

    architecture: str
    window: int
    rows: int
    tokens: int
    longest: int
    truncated: int


class Targets(BaseModel):
    """How many `tokens` each of some texts takes as a target, its end among them, and for how many there is `room`.

    None for a model that does not write: its answers take no tokens.
    """

    model_config = ConfigDict(frozen=True)

    room: int | None
    tokens: tuple[int, ...]


def measure(ref: str, rows: Sequence[Example], task: TaskSpec, store: ArtifactStore | None = None) -> Lengths:
    """Tokenise the rows' inputs as the model `ref` would read them, uncut.

    Raises ModelNotFound, or ModelError for a model that cannot be used.
    """
    kind, tokenizer, bound = _reader(ref, rows, task, store)
    texts = [row.input for row in rows]
    lengths = [len(row.ids) for row in tokenize(tokenizer, Template.parse(task.template), texts, max_tokens=2**31)]
    return Lengths(
        architecture=kind,
        window=bound,
        rows=len(rows),
        tokens=sum(lengths),
        longest=max(lengths, default=0),
        truncated=sum(length > bound for length in lengths),
    )


def targets(
    ref: str, texts: Sequence[str], rows: Sequence[Example], task: TaskSpec, store: ArtifactStore | None = None
) -> Targets:
    """Tokenise texts as the model `ref` would write them, trained on the rows where it is new.

    Raises as `measure` does.
    """
    kind, tokenizer, bound = _reader(ref, rows, task, store)
    if kind == "classifier":
        return Targets(room=None, tokens=(0,) * len(texts))
    room = target_room(tokenizer, task.template, bound) if kind == "causal" else bound
    return Targets(
        room=max(0, room - AROUND),
        tokens=tuple(len(_written(kind, tokenizer, text, task)) for text in texts),
    )


def shared_answers(
    one: str, other: str, rows: Sequence[Example], task: TaskSpec, store: ArtifactStore | None = None
) -> float:
    """The share of the rows whose output the models `one` and `other` write in the very same tokens.

    0.0 where one of them does not write. Raises as `measure` does.
    """
    mine, others = (_answers(*_reader(ref, rows, task, store)[:2], rows, task) for ref in (one, other))
    return sum(a == b for a, b in zip(mine, others, strict=False)) / len(rows) if mine and others else 0.0


def _answers(kind: str, tokenizer: Any, rows: Sequence[Example], task: TaskSpec) -> list[list[str]]:
    """Each row's output in the pieces of the model's vocabulary; none for a model that does not write."""
    if kind == "classifier":
        return []
    return [tokenizer.convert_ids_to_tokens(_written(kind, tokenizer, row.output, task)) for row in rows]


def _written(kind: str, tokenizer: Any, target: str, task: TaskSpec) -> list[int]:
    """A target's tokens, with the one that ends it."""
    if kind == "seq2seq":
        return decoder_ids(tokenizer, target)
    return target_ids(tokenizer, task.template, target, ended=True)


def _reader(ref: str, rows: Sequence[Example], task: TaskSpec, store: ArtifactStore | None) -> tuple[str, Any, int]:
    """The architecture, the tokenizer and the window of the model `ref`, trained on these rows where it is new."""
    texts, targets = [row.input for row in rows], [row.output for row in rows]
    if ref.startswith(PREFIX):
        scratch = parse_scratch(ref)
        tokenizer = train_tokenizer(scratch.family, corpus(texts, targets, task.template))
        return str(FAMILIES[scratch.family]), tokenizer, window(build_config(scratch, tokenizer), tokenizer, None)
    if is_cut(ref):
        cut, source = parse_cut(ref), Source.find(base_of(ref), store)
        config, tokenizer = source.config(), source.tokenizer()
        layer_counts(config, cut)
        kind, bound = architecture(config), window(config, tokenizer, None)
        if cut.vocabulary:
            ids = named_ids(config)
            tokenizer, _ = trim_for(tokenizer, cut.vocabulary, task, texts=texts, targets=targets, ids=ids)
        return kind, tokenizer, bound
    source = Source.find(ref, store)
    config, tokenizer, card = source.config(), source.tokenizer(), load_card(Path(source.place))
    return architecture(config), tokenizer, window(config, tokenizer, card.max_tokens if card else None)
