"""Rows without an answer: read from every kind of file, with a full account of what was set aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from understudy.data.parquet import read_examples, read_inputs, write_inputs
from understudy.data.rows import SourceInput, parse_input
from understudy.data.validate import keep_askable, load_unlabelled, remove_known
from understudy.errors import ArtifactCorrupt, InvalidRequest
from understudy.schemas import Example, TaskSpec

CHAT = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "a?"}]


def load(folder: Path, *rows: Any) -> tuple[list[SourceInput], list[tuple[int, str]]]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, rejected = load_unlabelled(path)
    assert {row.split for row in rejected} <= {"unlabelled"}
    return found, [(row.line, row.reason) for row in rejected]


def test_an_input_is_enough_and_an_output_is_not_read(tmp_path: Path) -> None:
    found, rejected = load(tmp_path, {"text": "a"}, {"input": "b", "output": 7, "id": "mine"}, {"output": "x"}, 3)
    assert [(row.input, row.answered, row.line) for row in found] == [("a", False, 1), ("b", True, 2)]
    assert found[1].id == "mine"
    assert found[0].id.startswith("row-")
    assert [line for line, _ in rejected] == [3, 4]


@pytest.mark.parametrize("more", [[], [{"role": "assistant", "content": None, "tool_calls": [{}]}]], ids=["no", "one"])
def test_a_chat_needs_no_assistants_turn(more: list[dict[str, Any]]) -> None:
    assert parse_input({"messages": [*CHAT, *more]}).input == "Answer.\n\na?"
    assert parse_input({"messages": [*CHAT[1:], *more]}).input == "a?"


@pytest.mark.parametrize("messages", [[], "a", [CHAT[0]], [*CHAT, CHAT[1]], [{"role": "assistant", "content": "b"}]])
def test_a_chat_in_which_no_user_speaks_last_is_refused(messages: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_input({"messages": messages})
    assert caught.value.param == "messages"


def test_equal_questions_and_equal_ids_are_listed_whatever_answers_stand_beside_them(tmp_path: Path) -> None:
    found, rejected = load(
        tmp_path, {"input": "a", "output": "x"}, {"input": " a", "output": "y"}, {"input": "b", "id": "1"},
        {"input": "c", "id": "1"},
    )  # fmt: skip
    assert [row.input for row in found] == ["a", "b"]
    assert rejected == [(2, "the same input as line 1"), (4, "id '1' is the id of line 3 already")]


@pytest.mark.parametrize("header", ["text", "id,text", "text;id", "text\tid", "text,label"])
def test_a_table_needs_no_column_for_the_output(tmp_path: Path, header: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\n{header.upper()}\n")
    (row,), rejected = load_unlabelled(path)
    assert (row.input, rejected) == ("TEXT", [])
    assert row.answered == ("label" in header)


def test_a_table_without_an_input_says_what_it_needs_and_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("comment,label\na,b\n")
    with pytest.raises(InvalidRequest, match="one of input, text, question, prompt, sentence for the input; it holds"):
        load_unlabelled(path)


def test_parquet_columns_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["a", "b"], "choices": [["x", "y"], None]}), tmp_path / "rows.parquet")
    found, _ = load_unlabelled(tmp_path / "rows.parquet")
    assert [row.choices for row in found] == [("x", "y"), None]


def test_what_a_split_asks_is_set_aside_and_the_split_is_named() -> None:
    splits = {name: [Example(id=name, input=name, output="x")] for name in ("train", "validation", "test")}
    asked = [SourceInput(id=str(line), input=text, line=line) for line, text in enumerate(("new", "test", " train"), 1)]
    kept, rejected = remove_known(asked, **splits)
    assert [row.input for row in kept] == ["new"]
    assert [(row.line, row.reason) for row in rejected] == [
        (2, "the test split has the same input"),
        (3, "the train split has the same input"),
    ]


def test_choices_are_on_every_row_of_a_choice_task_and_on_no_row_of_another() -> None:
    rows = [SourceInput(id="1", input="a", line=1), SourceInput(id="2", input="b", choices=("x", "y"), line=2)]
    kept, rejected = keep_askable(TaskSpec(kind="choice"), rows)
    assert ([row.id for row in kept], [row.line for row in rejected]) == (["2"], [1])
    kept, rejected = keep_askable(TaskSpec(kind="classification", labels=("x", "y")), rows)
    assert ([row.id for row in kept], [row.line for row in rejected]) == (["1"], [2])


def test_inputs_come_back_from_a_shard_and_are_no_examples(tmp_path: Path) -> None:
    path = tmp_path / "unlabelled.parquet"
    rows = [SourceInput(id="1", input="a", line=4, answered=True), SourceInput(id="2", input="b", choices=("x", "y"))]
    assert write_inputs(path, rows) == 2
    assert [row.model_dump() for row in read_inputs(path)] == [row.model_dump() for row in rows]
    with pytest.raises(ArtifactCorrupt, match="no shard of Example"):
        read_examples(path)
