"""Splits by content: disjoint, stable, close to the asked shares, and free of leaks."""

from __future__ import annotations

import random

import pytest

from understudy.data.rows import parse_row
from understudy.data.split import remove_leaks, split_examples
from understudy.errors import InvalidRequest
from understudy.schemas import Example


def examples(count: int, prefix: str = "text") -> list[Example]:
    return [Example(id=f"{prefix}-{i}", input=f"{prefix} number {i}", output=str(i % 3)) for i in range(count)]


def places(rows: list[Example], seed: int = 0, validation: float = 0.1, test: float = 0.2) -> dict[str, int]:
    splits = split_examples(rows, validation=validation, test=test, seed=seed)
    assert sum(map(len, splits)) == len(rows)
    return {row.id: number for number, split in enumerate(splits) for row in split}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.1), (0.2, 0.0), (0.0, 0.3), (0.25, 0.5), (0.0, 0.0)])
def test_splits_are_disjoint_and_close_to_the_asked_shares(seed: int, validation: float, test: float) -> None:
    rows = examples(2000)
    splits = split_examples(rows, validation=validation, test=test, seed=seed)
    ids = [row.id for split in splits for row in split]
    assert sorted(ids) == sorted(row.id for row in rows)
    for split, share in zip(splits, (1 - validation - test, validation, test), strict=True):
        assert abs(len(split) / len(rows) - share) < 0.04  # 3.5 standard deviations of the worst share


@pytest.mark.parametrize("seed", range(5))
def test_a_row_stays_where_it_is_when_others_come_go_or_move(seed: int) -> None:
    rows = examples(300)
    before = places(rows, seed)
    more = rows + examples(200, "other")
    random.shuffle(more)
    assert before.items() <= places(more, seed).items()
    assert places(rows[:250], seed).items() <= before.items()


def test_the_order_of_rows_is_kept() -> None:
    rows = examples(100)
    random.shuffle(rows)
    for split in split_examples(rows, validation=0.2, test=0.2, seed=1):
        assert [rows.index(row) for row in split] == sorted(rows.index(row) for row in split)


def test_ids_and_outputs_do_not_decide_the_place() -> None:
    rows = examples(200)
    renamed = [row.model_copy(update={"id": f"new-{row.id}", "output": "z"}) for row in rows]
    assert {f"new-{name}": place for name, place in places(rows).items()} == places(renamed)


def test_another_seed_divides_otherwise() -> None:
    rows = examples(200)
    assert places(rows, 0) != places(rows, 1)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [3, 5, 10])
def test_a_small_file_still_fills_every_split_that_was_asked_for(seed: int, count: int) -> None:
    assert all(split_examples(examples(count), validation=0.1, test=0.1, seed=seed))


def test_no_share_means_no_row() -> None:
    train, validation, test = split_examples(examples(2), validation=0.0, test=0.0, seed=0)
    assert (len(train), validation, test) == (2, [], [])


@pytest.mark.parametrize(
    ("count", "validation", "test"), [(2, 0.1, 0.1), (10, 0.5, 0.5), (10, -0.1, 0.1), (10, 0.1, 1.0), (0, 0.0, 0.0)]
)
def test_shares_that_cannot_be_met_are_refused(count: int, validation: float, test: float) -> None:
    with pytest.raises(InvalidRequest):
        split_examples(examples(count), validation=validation, test=test, seed=0)


def test_a_question_of_a_later_split_is_set_aside_in_the_earlier_ones() -> None:
    rows = [parse_row({"input": f"q{i}", "output": "a"}, line=10 + i) for i in range(4)]
    respaced = [Example(id="t", input=" q0 ", output="b")]
    train, validation, rejected = remove_leaks(rows, [rows[0], rows[1]], respaced)
    assert (train, validation) == (rows[2:], [rows[1]])
    assert [(r.split, r.line, r.reason) for r in rejected] == [
        ("train", 10, "the test split has the same input"),
        ("train", 11, "the validation split has the same input"),
        ("validation", 10, "the test split has the same input"),
    ]


def test_rows_without_a_line_are_named_by_their_position() -> None:
    rows = examples(3)
    assert remove_leaks(rows, [], rows[1:2])[2][0].line == 2


def test_what_was_split_by_content_has_no_leaks() -> None:
    rows = examples(100) + [row.model_copy(update={"id": f"again-{row.id}"}) for row in examples(100)]
    train, validation, test = split_examples(rows, validation=0.2, test=0.2, seed=3)
    assert remove_leaks(train, validation, test) == (train, validation, [])
