"""Whether the teacher's words include the answer, on rows where one can count by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from understudy.data.parquet import AnnotatedExample
from understudy.evaluation.hits import answer_places, rationale_hits

Annotated = Callable[[str, str, Sequence[str]], AnnotatedExample]


@pytest.mark.parametrize(
    ("text", "answer", "places"),
    [
        ("the red car", "car", {2}),
        ("Car or car", "car", {0, 2}),
        ("a red car and a red bus", "red bus", {5, 6}),
        ("a carpet", "car", set()),
        ("red", "red bus", set()),
        ("anything", "?!", set()),
    ],
)
def test_the_answer_is_found_as_whole_words(annotated: Annotated, text: str, answer: str, places: set[int]) -> None:
    assert answer_places(annotated(text, answer, []).attribution.words, answer) == places


def test_share_and_chance_are_over_the_rows_that_hold_the_answer(annotated: Annotated) -> None:
    found = rationale_hits(
        [
            annotated("the red car", "red", ["red"]),  # a hit; one random word of three hits with 1/3
            annotated("the red car stops", "red", ["car"]),  # no hit; 1/4
            annotated("a red bus", "red bus", ["bus", "a"]),  # a hit in part; two random words always hit
            annotated("the red car", "blue", ["red"]),  # the answer is not in the input
            annotated("the red car", "red", []),  # the teacher named nothing
        ]
    )
    assert (found.rows, found.with_answer_in_input) == (5, 3)
    assert found.share == pytest.approx(2 / 3)
    assert found.chance == pytest.approx((1 / 3 + 1 / 4 + 1) / 3)
    assert found.low is not None
    assert found.low < 2 / 3 < (found.high or 0)


def test_no_row_with_the_answer_is_said_and_not_hidden(annotated: Annotated) -> None:
    found = rationale_hits([annotated("the red car", "vehicle", ["car"])])
    assert (found.rows, found.with_answer_in_input, found.share, found.chance) == (1, 0, None, None)
