"""Where is it good and where not? Accuracy by length, by label, and by whether the answer is in the input. No torch.

A slice is looked at, not tested: among a dozen of them one will look special by chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from understudy.attribution.words import word_spans
from understudy.evaluation.answered import accuracy
from understudy.evaluation.compare import Right
from understudy.evaluation.details import Confused, Confusion, Slice, SliceCell
from understudy.evaluation.hits import answer_places
from understudy.schemas import Example, TaskSpec, Word

__all__ = ["confusion", "slices"]

SMALL = 30
"""Below this many rows a slice's interval spans more than thirty points around the middle (Wilson)."""

SHOWN_LABELS = 20
SHOWN_CONFUSIONS = 10


def slices(task: TaskSpec, test: Sequence[Example], models: Mapping[str, Right]) -> tuple[Slice, ...]:
    """The accuracy of each model (a name and, for each seed, which test rows it got right) in each slice.

    Labels are the commonest twenty of the test split. Slices that hold every row or none say nothing and are left out.
    """
    found = []
    for by, groups in (("length", _lengths(test)), ("label", _labels(task, test)), ("answer", _in_input(test))):
        for name, places in groups.items():
            if not 0 < len(places) < len(test):
                continue
            cells = [
                SliceCell(model=model, accuracy=accuracy({s: [one[p] for p in places] for s, one in right.items()}))
                for model, right in models.items()
            ]
            found.append(Slice(by=by, name=name, rows=len(places), small=len(places) < SMALL, cells=tuple(cells)))
    return tuple(found)


def _lengths(test: Sequence[Example]) -> dict[str, list[int]]:
    """Three groups of words' counts, as equal as ties allow: rows of the same length stay together."""
    counts = [len(word_spans(example.input)) for example in test]
    ordered = sorted(counts)
    first, second = (ordered[(len(ordered) * third - 1) // 3] for third in (1, 2))
    return {
        f"up to {first} words": [place for place, count in enumerate(counts) if count <= first],
        _between(first + 1, second): [place for place, count in enumerate(counts) if first < count <= second],
        f"more than {second} words": [place for place, count in enumerate(counts) if count > second],
    }


def _between(low: int, high: int) -> str:
    return f"{low} words" if low == high else f"{low} to {high} words"


def _labels(task: TaskSpec, test: Sequence[Example]) -> dict[str, list[int]]:
    if not task.labels:
        return {}
    shown = [label for label, _ in Counter(example.output for example in test).most_common(SHOWN_LABELS)]
    return {
        label: [place for place, example in enumerate(test) if example.output == label]
        for label in sorted(shown, key=list(task.labels).index)
    }


def _in_input(test: Sequence[Example]) -> dict[str, list[int]]:
    inside = [bool(answer_places(_words(example.input), example.output)) for example in test]
    return {
        "answer in the input": [place for place, one in enumerate(inside) if one],
        "answer not in the input": [place for place, one in enumerate(inside) if not one],
    }


def _words(text: str) -> list[Word]:
    return [Word(text=text[start:end], start=start, end=end, score=0.0) for start, end in word_spans(text)]


def confusion(task: TaskSpec, test: Sequence[Example], given: Sequence[str]) -> Confusion | None:
    """Expected labels against given ones; for many labels only the commonest confusions. None without a label set."""
    if not task.labels:
        return None
    pairs = Counter((example.output, label) for example, label in zip(test, given, strict=True))
    of = Counter(example.output for example in test)
    wrong = [(count, expected, label) for (expected, label), count in pairs.items() if expected != label]
    top = sorted(wrong, key=lambda one: (-one[0], one[1], one[2]))[:SHOWN_CONFUSIONS]
    counts = None
    if len(task.labels) <= SHOWN_LABELS:
        counts = tuple(tuple(pairs[expected, label] for label in task.labels) for expected in task.labels)
    return Confusion(
        labels=task.labels,
        counts=counts,
        top=tuple(Confused(expected=a, given=b, count=n, of=of[a]) for n, a, b in top),
    )
