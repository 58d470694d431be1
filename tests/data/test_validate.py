"""A file in: the examples of a split and a full account of what was set aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from understudy.data.parquet import read_examples, write_examples
from understudy.data.validate import load_split
from understudy.errors import InvalidRequest
from understudy.schemas import Example, RejectedRow


def load(folder: Path, *rows: dict[str, Any]) -> tuple[list[Example], list[RejectedRow]]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_split(path, "validation")


def row(text: str, output: str = "yes", **more: Any) -> dict[str, Any]:
    return {"input": text, "output": output, **more}


def test_every_line_is_an_example_or_is_accounted_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"input": "a", "output": "x"}\r\n\r\n'
        b'{"input": "b\xff", "output": "x"}\n{"input": "", "output": "x"}\n{"input": "c"}\nnot json\n'
        b'{"input": "d", "output": "y", "highlights": [[0, 2]]}\n{"text": "e", "label": 3}\n'
    )
    examples, rejected = load_split(path, "train")
    assert [(example.input, example.output) for example in examples] == [("a", "x"), ("e", "3")]
    assert [(r.line, r.param) for r in rejected] == [
        (3, None),
        (4, "input"),
        (5, "output"),
        (6, None),
        (7, "highlights[0]"),
    ]
    assert {r.split for r in rejected} == {"train"}


def test_the_first_of_equal_rows_is_kept_and_the_rest_are_listed(tmp_path: Path) -> None:
    examples, rejected = load(tmp_path, row("a"), row("b"), row("a"), row(" a\n"))
    assert [example.input for example in examples] == ["a", "b"]
    assert [(r.line, r.reason) for r in rejected] == [(3, "the same input as line 1"), (4, "the same input as line 1")]


def test_an_input_with_two_answers_is_listed_with_both(tmp_path: Path) -> None:
    examples, rejected = load(tmp_path, row("a"), row("a", "no"))
    assert [example.output for example in examples] == ["yes"]
    assert rejected[0].reason == "the same input as line 1 with another output: 'yes' there, 'no' here"
    assert rejected[0].param == "output"


def test_one_question_with_other_choices_is_another_question(tmp_path: Path) -> None:
    examples, rejected = load(tmp_path, row("which?", choices=["yes", "no"]), row("which?", choices=["yes", "perhaps"]))
    assert len(examples) == 2
    assert not rejected


def test_ids_are_unique(tmp_path: Path) -> None:
    examples, rejected = load(tmp_path, row("a", id="1"), row("b", id=1), row("c"), row("d"))
    assert len({example.id for example in examples}) == len(examples) == 3
    assert (rejected[0].line, rejected[0].param) == (2, "id")
    assert "the id of line 1 already" in rejected[0].reason


def test_made_up_ids_are_the_same_in_every_file(tmp_path: Path) -> None:
    forth, _ = load(tmp_path, row("a"), row("b"))
    back, _ = load(tmp_path, row("b"), row("a"))
    assert forth == back[::-1]


def test_a_file_without_a_valid_row_shows_the_first_reasons(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        load(tmp_path, *[row("")] * 5)
    assert caught.value.message == (
        "no row of 'rows.jsonl' is valid. line 1: input is empty; line 2: input is empty; line 3: input is empty; "
        "and 2 more"
    )


def test_a_file_without_rows_says_so(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("input,output\n\n")
    with pytest.raises(InvalidRequest, match="it has no rows"):
        load_split(tmp_path / "rows.csv", "train")


@pytest.mark.parametrize("text", ["\ud800", "\U0001f389", "नमस्ते", "a\x00b", "\u202eabc", "\\ud83d"])
def test_every_account_can_be_sent_as_utf8(tmp_path: Path, text: str) -> None:
    _, rejected = load(tmp_path, row("fine"), row("a", text, choices=["x", "y"]), row("fine", text), {text: 1})
    assert len(rejected) == 3
    for account in rejected:
        account.model_dump_json().encode()


def test_csv_jsonl_and_parquet_of_the_same_rows_are_the_same_examples(tmp_path: Path) -> None:
    examples, _ = load(tmp_path, row("a, b", "1"), row('say "c"\nd', "2", choices=["1", "2"]))
    write_examples(tmp_path / "rows.parquet", examples)
    (tmp_path / "rows.csv").write_text(
        'question,answer,choices\n"a, b",1,\n"say ""c""\nd",2,"[""1"", ""2""]"\n', newline=""
    )
    assert load_split(tmp_path / "rows.csv", "train")[0] == examples
    assert load_split(tmp_path / "rows.parquet", "train")[0] == examples
    assert read_examples(tmp_path / "rows.parquet") == examples
