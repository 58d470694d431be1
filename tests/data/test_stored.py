"""Rows on the disk are the rows of a list: the same are kept, set aside, divided and ordered, in little memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from understudy.data.rows import SourceInput, SourceRow, content_key, made_id
from understudy.data.split import in_order, remove_known, remove_leaks, split_examples
from understudy.data.stored import Stored
from understudy.data.task import infer_task, keep_askable, keep_known_labels
from understudy.data.validate import load_split, load_unlabelled
from understudy.schemas import TaskSpec

ROWS: list[dict[str, Any]] = [
    *({"input": f"row {i} of many", "output": "yes" if i % 2 else "no", "rationale": "why"} for i in range(60)),
    {"input": "row  3 of many", "output": "yes"},
    {"input": "row 4 of many", "output": "another"},
    {"input": "no output"},
    {"input": "é \u2028", "output": "yes", "id": "mine", "highlights": [[0, 1]]},
    {"input": "new", "output": "no", "id": "mine"},
]


def written(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """The same rows with the same lines, and the same were set aside."""
    for ours, theirs in zip(one, other, strict=True):
        assert list(ours) == list(theirs)
        assert [getattr(row, "line", 0) for row in ours] == [getattr(row, "line", 0) for row in theirs]


def test_rows_on_the_disk_go_the_way_of_rows_in_a_list(tmp_path: Path) -> None:
    path = written(tmp_path, ROWS)
    stored = load_split(path, "train", Stored(SourceRow, tmp_path))
    listed = load_split(path, "train")
    same(stored, listed)
    assert [row.line for row in listed[1]] == [61, 62, 63, 65]
    rows, other = stored[0], listed[0]
    assert infer_task(rows) == infer_task(other)
    parts = split_examples(rows, validation=0.2, test=0.2, seed=1)
    same(parts, split_examples(other, validation=0.2, test=0.2, seed=1))
    same((in_order(parts[0]),), (sorted(parts[0], key=lambda row: content_key(row.input, row.choices)),))
    same(remove_leaks(rows, parts[1], parts[2]), remove_leaks(other, list(parts[1]), list(parts[2])))
    task = TaskSpec(kind="classification", labels=("no", "maybe"))
    same(keep_known_labels(task, rows, "test"), keep_known_labels(task, other, "test"))


def test_rows_without_an_answer_do_so_too(tmp_path: Path) -> None:
    path = written(tmp_path, [*ROWS, {"input": "one of two", "choices": ["a", "b"]}])
    stored = load_unlabelled(path, Stored(SourceInput, tmp_path))
    listed = load_unlabelled(path)
    same(stored, listed)
    assert sum(row.answered for row in stored[0]) == sum(row.answered for row in listed[0]) > 0
    known = list(load_split(written(tmp_path, ROWS[:5]), "train")[0])
    same(remove_known(stored[0], train=known), remove_known(listed[0], train=known))
    same(keep_askable(TaskSpec(), stored[0]), keep_askable(TaskSpec(), listed[0]))


@pytest.mark.parametrize("into", [list, lambda: Stored(SourceRow)])
@pytest.mark.parametrize("made_first", [True, False])
def test_an_id_that_another_row_gets_from_its_question_is_taken(tmp_path: Path, made_first: bool, into: Any) -> None:
    rows = [{"input": "a", "output": "x"}, {"input": "b", "output": "x", "id": made_id(content_key("a", None))}]
    kept, rejected = load_split(written(tmp_path, rows if made_first else rows[::-1]), "train", into())
    assert (len(kept), [(row.line, row.param) for row in rejected]) == (1, [(2, "id")])


def test_a_part_is_read_as_a_list_is(tmp_path: Path) -> None:
    rows, _ = load_split(written(tmp_path, ROWS[:10]), "train", Stored(SourceRow, tmp_path))
    listed = list(rows)
    assert isinstance(rows, Stored)
    assert (rows[3], rows[-1], len(rows[2:7])) == (listed[3], listed[9], 5)
    assert list(rows[2:7][1:3]) == listed[3:5]
    assert list(rows.take([5, 1])) == [listed[5], listed[1]]
    with pytest.raises(IndexError):
        rows[10]
    assert [one.name for one in tmp_path.iterdir()] == ["rows.jsonl"], "its file has a name"


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    count = 1500
    path = written(tmp_path, [{"input": f"row {i} {'words ' * 1000}", "output": str(i % 2)} for i in range(count)])
    tracemalloc.start()
    try:
        rows, _ = load_split(path, "train", Stored(SourceRow, tmp_path))
        in_order(split_examples(rows, validation=0.1, test=0.2, seed=0)[0])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 2  # of which the writer's buffer of 1 MiB is the most
