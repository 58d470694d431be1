"""What a row must hold to be an example, and how a refusal names the field."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from understudy.data.rows import SourceRow, content_key, parse_row
from understudy.errors import InvalidRequest
from understudy.schemas import MAX_TEXT_CHARS, Example


def row(**fields: Any) -> SourceRow:
    return parse_row({"input": "some input", "output": "yes"} | fields, line=7)


def refusal(fields: dict[str, Any]) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as caught:
        parse_row(fields)
    caught.value.message.encode()  # whatever was in the row, the message can be sent
    return caught.value.param, caught.value.message


@pytest.mark.parametrize("input_name", ["input", "text", "question", "prompt", "sentence"])
@pytest.mark.parametrize("output_name", ["output", "label", "answer", "completion"])
def test_common_column_names_are_understood(input_name: str, output_name: str) -> None:
    example = parse_row({input_name: " in ", output_name: " out\n"})
    assert (example.input, example.output) == (" in ", "out")


def test_the_input_is_taken_to_the_letter() -> None:
    text = "\ufeff a\r\nb\u00a0\x00e\u0301 "
    assert row(input=text).input == text


@pytest.mark.parametrize(
    ("value", "label"), [(1, "1"), ("1", "1"), (" 1", "1"), (0, "0"), (True, "true"), (False, "false"), (0.5, "0.5")]
)
def test_numbers_and_booleans_become_labels(value: Any, label: str) -> None:
    assert row(output=value).output == label


@pytest.mark.parametrize(
    ("fields", "param", "complaint"),
    [
        ({}, "input", "is missing (also read: text, question, prompt, sentence); the row has nothing"),
        ({"input": "a", "target": "b"}, "output", "the row has input, target"),
        ({"text": "a", "question": "b", "label": "c"}, "input", "could be any of text, question"),
        ({"input": None, "output": "b"}, "input", "must be text, not null"),
        ({"input": 5, "output": "b"}, "input", "must be text, not a number"),
        ({"text": {"a": 1}, "label": "b"}, "text", "must be text, not an object"),
        ({"input": ["a"], "output": "b"}, "input", "must be text, not a list"),
        ({"input": b"a", "output": "b"}, "input", "must be text, not bytes"),
        ({"input": date(2024, 1, 1), "output": "b"}, "input", "must be text, not date"),
        ({"input": " \n\u2003", "output": "b"}, "input", "is empty"),
        ({"input": "a", "label": ""}, "label", "is empty"),
        ({"input": "a", "output": ["b"]}, "output", "must be text, not a list"),
        ({"input": "a", "output": float("nan")}, "output", "must be text, not nan"),
        ({"input": "a", "output": float("inf")}, "output", "must be text, not inf"),
        ({"input": "a" * (MAX_TEXT_CHARS + 1), "output": "b"}, "input", "at most 100000 are read"),
        ({"input": "ab\ud83dcd", "output": "b"}, "input", "holds U+D83D at offset 2"),
        ({"input": "a", "output": "\udc00"}, "output", "holds U+DC00 at offset 0"),
        ({"input": "a", "output": "b", "rationale": 3}, "rationale", "must be text"),
        ({"input": "a", "output": "b", "id": ["x"]}, "id", "must be text"),
        ({"input": "a", "output": "b", "id": "x" * 201}, "id", "has 201 characters"),
        ({"\ud800": 1}, "input", r"the row has \ud800"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_field_that_cannot_be_read_is_named(fields: dict[str, Any], param: str, complaint: str) -> None:
    named, message = refusal(fields)
    assert named == param
    assert message.startswith(param)
    assert complaint in message


def test_a_text_of_the_longest_length_is_read() -> None:
    assert len(row(input="a" * MAX_TEXT_CHARS).input) == MAX_TEXT_CHARS


# --- choices and highlights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [["yes", "no"], ("yes", "no"), '["yes", "no"]', [" yes ", "no", "yes"]])
def test_choices_are_a_list_of_different_answers(given: Any) -> None:
    assert row(choices=given).choices == ("yes", "no")


@pytest.mark.parametrize("absent", [None, [], "", "  "])
def test_no_choices_is_none(absent: Any) -> None:
    assert row(choices=absent).choices is None


def test_numeric_choices_meet_a_numeric_output() -> None:
    assert row(output=2, choices=[1, 2]).choices == ("1", "2")


@pytest.mark.parametrize(
    ("choices", "param", "complaint"),
    [
        (["no", "maybe"], "output", "'yes' is not one of the choices: no, maybe"),
        (["yes"], "choices", "must be 2 to 100 different answers, not 1"),
        (["yes", "yes "], "choices", "not 1"),
        ([str(i) for i in range(101)], "choices", "not 101"),
        (["yes", None], "choices[1]", "must be text, not null"),
        (["yes", ""], "choices[1]", "is empty"),
        ("yes, no", "choices", "in a CSV cell: a JSON list"),
        ({"a": "yes"}, "choices", "must be a list, not an object"),
    ],
    ids=str,
)
def test_choices_that_cannot_be_used_are_named(choices: Any, param: str, complaint: str) -> None:
    named, message = refusal({"input": "a", "output": "yes", "choices": choices})
    assert named == param
    assert complaint in message


def test_highlights_are_offsets_in_characters() -> None:
    example = row(input="\U0001f389 wow", highlights=[[2, 5], [0, 1]])
    assert [example.input[start:end] for start, end in example.highlights or ()] == ["wow", "\U0001f389"]


def test_highlights_in_a_csv_cell_are_json() -> None:
    assert row(highlights="[[0, 4]]").highlights == ((0, 4),)


@pytest.mark.parametrize(
    ("spans", "param"),
    [
        ([[0, 11]], "highlights[0]"),
        ([[0, 4], [-1, 2]], "highlights[1]"),
        ([[4, 4]], "highlights[0]"),
        ([[5, 4]], "highlights[0]"),
        ([[0]], "highlights[0]"),
        ([[0, 1, 2]], "highlights[0]"),
        ([[0, 1.0]], "highlights[0]"),
        ([[False, True]], "highlights[0]"),
        (["ab"], "highlights[0]"),
        ([[0, 10**30]], "highlights[0]"),
        (3, "highlights"),
    ],
    ids=str,
)
def test_highlights_outside_of_the_input_are_refused(spans: Any, param: str) -> None:
    named, _ = refusal({"input": "some input", "output": "yes", "highlights": spans})
    assert named == param


# --- ids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "kept"), [("a-1", "a-1"), (0, "0"), (12, "12")])
def test_an_id_is_kept(given: Any, kept: str) -> None:
    assert row(id=given).id == kept


def test_a_row_without_an_id_gets_one_from_its_content() -> None:
    first = row().id
    assert first == row(id="").id == row(id=None).id == row(output="no").id
    assert first != row(input="other").id
    assert first != row(choices=["yes", "no"]).id


def test_spacing_and_unicode_form_do_not_make_another_question() -> None:
    assert content_key("caf\u00e9  au\nlait ", None) == content_key("cafe\u0301 au lait", None)
    assert content_key("a", ("b c",)) != content_key("a b", ("c",))
    assert content_key("Case", None) != content_key("case", None)


def test_the_line_is_known_but_never_stored() -> None:
    example = row()
    assert example.line == 7
    assert set(example.model_dump()) == set(Example.model_fields)


# --- chat rows -----------------------------------------------------------------------------------------------------


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_a_chat_row_is_an_example() -> None:
    parts = [{"type": "text", "text": "Is it "}, {"type": "text", "text": "good?"}]
    example = parse_row(chat(("system", "Answer."), ("user", parts), ("assistant", " yes ")) | {"id": "c1"})
    assert (example.id, example.input, example.output) == ("c1", "Answer.\n\nIs it good?", "yes")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [3]}, "messages"),
        (chat(("user", "a")), "messages"),
        (chat(("assistant", "b"), ("user", "a")), "messages"),
        (chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")), "messages"),
        (chat(("user", "a"), ("assistant", None)), "messages[1].content"),
        (chat(("user", ""), ("assistant", "b")), "messages[0].content"),
        (chat(("user", [{"type": "image_url", "image_url": "x"}]), ("assistant", "b")), "messages[0].content"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_chat_that_is_not_one_exchange_is_refused(fields: dict[str, Any], param: str) -> None:
    assert refusal(fields)[0] == param


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("messages", "param", "words"),
    [
        ([USER, ANSWER | {"weight": 0}], "messages[1].weight", "nothing is to be learnt"),
        ([USER, ANSWER | {"weight": 0.5}], "messages[1].weight", "is 0 or 1, not 0.5"),
        ([USER, {"role": "assistant", "content": None, "tool_calls": [{}]}], "messages[1]", "tool's call"),
        ([USER, ANSWER | {"function_call": {"name": "f"}}], "messages[1]", "tool's call"),
        ([USER, {"role": "tool", "content": "c"}, ANSWER], "messages[1]", "tool's call"),
    ],
)
def test_a_chat_row_that_asks_for_what_is_not_trained_here_is_refused(
    messages: list[Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        parse_row({"messages": messages})
    assert caught.value.param == param


def test_a_chat_answer_of_weight_one_is_a_row() -> None:
    assert parse_row({"messages": [USER, ANSWER | {"weight": 1}]}).output == "b"
