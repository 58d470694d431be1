"""Which example belongs to which split, decided by its content alone, and what no two splits may share."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

from understudy.data.rows import SourceInput, SourceRow
from understudy.data.stored import questions, take
from understudy.errors import InvalidRequest
from understudy.schemas import Example, RejectedRow

__all__ = ["in_order", "remove_known", "remove_leaks", "split_examples"]

_Row = TypeVar("_Row", Example, SourceInput)


def split_examples(
    examples: Sequence[Example], *, validation: float, test: float, seed: int
) -> tuple[Sequence[Example], Sequence[Example], Sequence[Example]]:
    """Divide into (train, validation, test), each in the order given; the shares are met on average.

    A row's place depends on its question and the seed only, so it stays when rows are added, removed or reordered, and
    a question that is asked twice never lands on two sides. One exception serves small files: a split that would
    stay empty gets the row nearest to it.
    """
    _check_shares(validation, test, len(examples))
    places = array("d", (_place(question, seed) for question in questions(examples)))
    order = sorted(range(len(examples)), key=places.__getitem__)
    asked = (test > 0, validation > 0)
    first = max(sum(place < test for place in places), asked[0])
    second = max(sum(place < test + validation for place in places), first + asked[1])
    second = min(second, len(examples) - 1)
    first = min(first, second - asked[1])

    def chosen(indices: Iterable[int]) -> Sequence[Example]:
        return take(examples, sorted(indices))

    return chosen(order[second:]), chosen(order[first:second]), chosen(order[:first])


def remove_leaks(
    train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
) -> tuple[Sequence[Example], Sequence[Example], list[RejectedRow]]:
    """Set aside the rows of `train` and `validation` whose question a later split asks; the later split keeps it.

    A row that does not know its line (see SourceRow) is named by its position.
    """
    tested = dict.fromkeys(questions(test), "test")
    validation, from_validation = _without(validation, tested, "validation")
    later = dict.fromkeys(questions(validation), "validation") | tested
    train, from_train = _without(train, later, "train")
    return train, validation, from_train + from_validation


def in_order(examples: Sequence[Example]) -> Sequence[Example]:
    """The examples by their content's hash, so that the first N are a fair sample of a file that was sorted."""
    keys = array("Q", (int(question[:16], 16) for question in questions(examples)))
    return take(examples, sorted(range(len(keys)), key=keys.__getitem__))


def remove_known(
    unlabelled: Sequence[SourceInput], **splits: Sequence[Example]
) -> tuple[Sequence[SourceInput], list[RejectedRow]]:
    """Set aside the rows whose question one of the splits asks: there it has an answer, or must stay unseen."""
    known = {question: split for split, rows in splits.items() for question in questions(rows)}
    return _without(unlabelled, known, "unlabelled")


def _without(
    rows: Sequence[_Row], later: dict[str, str], split: Literal["train", "validation", "unlabelled"]
) -> tuple[Sequence[_Row], list[RejectedRow]]:
    kept = array("q")
    rejected: list[RejectedRow] = []
    for place, question in enumerate(questions(rows)):
        where = later.get(question)
        if where is None:
            kept.append(place)
            continue
        row = rows[place]
        line = row.line if isinstance(row, SourceRow | SourceInput) else place + 1
        reason = f"the {where} split has the same input"
        rejected.append(RejectedRow(split=split, line=line, reason=reason, param="input"))
    return take(rows, kept), rejected


def _place(question: str, seed: int) -> float:
    """A number in [0, 1) that looks random and is the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{question}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _check_shares(validation: float, test: float, count: int) -> None:
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise InvalidRequest(f"the {name} share must be at least 0 and below 1, not {share}", param=name)
    if validation + test >= 1:
        raise InvalidRequest(f"shares of {validation} and {test} leave nothing to train on", param="validation")
    if count < 1 + (validation > 0) + (test > 0):
        raise InvalidRequest(f"{count} examples are too few to divide: give more, or a file for each split")
