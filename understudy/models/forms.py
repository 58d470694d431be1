"""Answer forms: how a label and the reasons for it stand together in one written text. Strings only, no tokens.

A separator is a word of its own with a colon behind it, `because:` or `answer:`. T5's SentencePiece and byte-level BPE
keep both, neither melts into what stands around it, and no word of a text ends in a colon (UAX 29), so that reasons
never hold one. A text is therefore split where its *last* `because:` stands behind a label, and where its *first*
`answer:` stands before one: a label may itself hold either word. The separator is written even where there are no
reasons, because without it nobody could say where such a label ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

__all__ = ["ANSWER", "BECAUSE", "FORMS", "SEPARATORS", "Form", "compose", "split"]

Form = Literal["label", "label_then_rationale", "rationale_then_label"]
"""What a student writes: the label alone, or the label with its reasons behind it or before it."""

FORMS: tuple[Form, ...] = ("label", "label_then_rationale", "rationale_then_label")

BECAUSE, ANSWER = "because:", "answer:"
SEPARATORS: dict[Form, str] = {"label_then_rationale": BECAUSE, "rationale_then_label": ANSWER}
"""What stands between the two parts; the form `label` has one part."""


def compose(form: Form, label: str, words: Sequence[str]) -> str:
    """The text that a student of this form is to write: its label, and the words in the order that they come in.

    >>> compose("label_then_rationale", "positive", ["great", "fun"])
    'positive because: great fun'
    >>> compose("rationale_then_label", "positive", ["great", "fun"])
    'great fun answer: positive'
    """
    if form == "label":
        return label
    parts = [label.strip(), SEPARATORS[form], *words]
    if form == "rationale_then_label":
        parts = [*words, SEPARATORS[form], label.strip()]
    return " ".join(part for part in parts if part)


def split(form: Form, written: str) -> tuple[str, str]:
    """The label and the reasons in a written text, both without white space at their ends.

    Without a separator the text is all label where that comes first, and all reasons where those do: it broke off
    before the other part began.
    """
    if form == "label":
        return written.strip(), ""
    places = [match.span() for match in re.finditer(rf"(?<!\S){SEPARATORS[form]}(?!\S)", written)]
    if form == "label_then_rationale":
        start, end = places[-1] if places else (len(written), len(written))
        return written[:start].strip(), written[end:].strip()
    start, end = places[0] if places else (len(written), len(written))
    return written[end:].strip(), written[:start].strip()
