"""Words against words, on texts where they can be counted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest

from understudy.data.parquet import AnnotatedExample
from understudy.evaluation.agreement import agreements, sample, side_by_side, teacher_map
from understudy.evaluation.spec import MapFaithfulness
from understudy.schemas import Faithfulness, Word

Annotate = Callable[..., AnnotatedExample]


def _words(row: AnnotatedExample, *names: str) -> tuple[Word, ...]:
    return tuple(word for word in row.attribution.words if word.text in names)


def _marked(row: AnnotatedExample, *spans: tuple[int, int]) -> AnnotatedExample:
    return row.model_copy(update={"example": row.example.model_copy(update={"highlights": spans})})


def test_students_words_against_the_teachers(annotated: Annotate) -> None:
    rows = [annotated("a b c d e", "x", ["a", "b"]), annotated("f g h i", "x", ["f"])]
    (found,) = agreements(rows, [_words(rows[0], "b", "c", "d"), _words(rows[1], "f")])
    assert (found.named, found.reference, found.rows) == ("student", "teacher", 2)
    assert found.f1.value == pytest.approx((2 * 1 / 5 + 1) / 2)
    assert found.overlap.value == pytest.approx((1 / 2 + 1) / 2)
    # Three of five words share 3 * 2 / 5 with two others in the mean, one of four shares 1 / 4 with one.
    assert found.f1_random == pytest.approx((2 * 1.2 / 5 + 2 * 0.25 / 2) / 2)
    assert found.overlap_random == pytest.approx((0.6 + 0.25) / 2)


def test_the_random_figures_equal_counting_every_draw(annotated: Annotate) -> None:
    row = annotated("a b c d e f", "x", ["a", "d"])
    (found,) = agreements([row], [_words(row, "a", "b", "c")])
    shared = [len({"a", "d"} & set(draw)) for draw in combinations("abcdef", 3)]
    assert found.f1_random == pytest.approx(sum(2 * one / 5 for one in shared) / len(shared))
    assert found.overlap_random == pytest.approx(sum(one / 2 for one in shared) / len(shared))


def test_people_come_in_where_they_marked_something(annotated: Annotate) -> None:
    rows = [_marked(annotated("a b c", "x", ["a"]), (0, 1), (2, 3)), annotated("d e", "x", ["d"])]
    found = agreements(rows, [_words(rows[0], "c"), ()])
    assert [(one.named, one.reference, one.rows) for one in found] == [
        ("student", "teacher", 2),
        ("teacher", "person", 1),
        ("student", "person", 1),
    ]
    assert found[1].f1.value == pytest.approx(2 / 3)
    assert found[2].f1.value == 0


def test_no_words_no_figures() -> None:
    assert agreements([], []) == ()


def test_the_sample_is_drawn_by_hash_of_rows_with_words(annotated: Annotate) -> None:
    rows = [annotated(f"text number {i}", "x", ["text"] if i % 2 else []) for i in range(20)]
    drawn = sample(rows, 5)
    assert len(drawn) == 5
    assert all(row.attribution.rationale for row in drawn)
    assert drawn == sample(rows[::-1], 5)
    assert len(sample(rows)) == 10


def test_rows_that_a_person_marked_are_shown_first(annotated: Annotate) -> None:
    rows = [annotated(f"text {i}", "x", ["text"]) for i in range(6)]
    rows[5] = _marked(rows[5], (0, 4))
    rows[0] = annotated("text " * 200 + "end", "x", ["end"])  # too long to read
    shown = side_by_side(rows, [row.attribution.rationale for row in rows])
    assert [one.input for one in shown] == ["text 5", "text 1", "text 2", "text 3"]
    assert shown[0].person == ((0, 4),)
    assert shown[1].person is None


def _figures(comprehensiveness: float, sufficiency: float) -> Faithfulness:
    return Faithfulness(
        comprehensiveness=comprehensiveness,
        sufficiency=sufficiency,
        aopc_comprehensiveness=0.0,
        aopc_sufficiency=0.0,
        log_odds=0.0,
    )


def test_the_teachers_map_beside_random_words() -> None:
    measured = MapFaithfulness(
        method="saliency",
        found=(_figures(0.5, 0.1), _figures(0.3, 0.3)),
        random=(_figures(0.1, 0.4), _figures(0.3, 0.2)),
    )
    found = teacher_map(measured)
    first, second = found.measures[:2]
    assert (found.rows, found.method, found.split) == (2, "saliency", "training")
    assert (first.words.value, first.random.value, first.difference.value) == pytest.approx((0.4, 0.2, 0.2))
    assert (second.words.value, second.random.value, second.difference.value) == pytest.approx((0.2, 0.3, -0.1))
    assert (first.higher_is_better, second.higher_is_better) == (True, False)
    assert first.difference.low < 0 < first.difference.high  # two rows prove nothing


def test_a_map_without_its_random_words_is_refused() -> None:
    with pytest.raises(ValueError, match="measured on 2 rows and random words on 1"):
        MapFaithfulness(method="saliency", found=(_figures(0, 0),) * 2, random=(_figures(0, 0),))
