"""How long texts are for a model, before it is trained or loaded: its own tokenizer, its own window, no weights.

What a training reads may differ by a few tokens where an architecture puts words of its own around the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from understudy.artifacts import ArtifactStore
from understudy.models.cut import layer_counts, named_ids
from understudy.models.load import load_card, window
from understudy.models.names import base_of, is_cut, parse_cut
from understudy.models.scratch import FAMILIES, PREFIX, build_config, corpus, parse_scratch, train_tokenizer
from understudy.models.source import Source, architecture
from understudy.models.text import Template, tokenize
from understudy.models.vocabulary import trim_for
from understudy.schemas import Example, TaskSpec

__all__ = ["Lengths", "measure"]


class Lengths(BaseModel):
    """Of `rows` texts in their template: `tokens` in all, of the `longest`, and how many rows exceed the `window`."""

    model_config = ConfigDict(frozen=True)

    architecture: str
    window: int
    rows: int
    tokens: int
    longest: int
    truncated: int


def measure(ref: str, rows: Sequence[Example], task: TaskSpec, store: ArtifactStore | None = None) -> Lengths:
    """Tokenise the rows' inputs as the model `ref` would read them, uncut.

    Raises ModelNotFound, or ModelError for a model that cannot be used.
    """
    texts, targets = [row.input for row in rows], [row.output for row in rows]
    if ref.startswith(PREFIX):
        scratch = parse_scratch(ref)
        tokenizer = train_tokenizer(scratch.family, corpus(texts, targets, task.template))
        kind, bound = str(FAMILIES[scratch.family]), window(build_config(scratch, tokenizer), tokenizer, None)
    elif is_cut(ref):
        cut, source = parse_cut(ref), Source.find(base_of(ref), store)
        config, tokenizer = source.config(), source.tokenizer()
        layer_counts(config, cut)
        kind, bound = architecture(config), window(config, tokenizer, None)
        if cut.vocabulary:
            ids = named_ids(config)
            tokenizer, _ = trim_for(tokenizer, cut.vocabulary, task, texts=texts, targets=targets, ids=ids)
    else:
        source = Source.find(ref, store)
        config, tokenizer, card = source.config(), source.tokenizer(), load_card(Path(source.place))
        kind, bound = architecture(config), window(config, tokenizer, card.max_tokens if card else None)
    lengths = [len(row.ids) for row in tokenize(tokenizer, Template.parse(task.template), texts, max_tokens=2**31)]
    return Lengths(
        architecture=kind,
        window=bound,
        rows=len(rows),
        tokens=sum(lengths),
        longest=max(lengths, default=0),
        truncated=sum(length > bound for length in lengths),
    )
