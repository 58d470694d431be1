"""One raw row -> one example, or InvalidRequest with the reason and the field. Knows no file and no other row.

The input is taken to the letter, because `highlights` are offsets into it. Labels lose the white space around them
and numbers become text, so that `1`, `"1"` and `" 1"` are one class.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from understudy.errors import InvalidRequest
from understudy.schemas import MAX_TEXT_CHARS, Example, PredictionInput

__all__ = [
    "INPUT_NAMES",
    "MADE_ID",
    "OUTPUT_NAMES",
    "SourceInput",
    "SourceRow",
    "content_key",
    "made_id",
    "parse_input",
    "parse_row",
    "shown",
]

INPUT_NAMES = ("input", "text", "question", "prompt", "sentence")
OUTPUT_NAMES = ("output", "label", "answer", "completion")
MADE_ID = re.compile("row-([0-9a-f]{24})")
_MAX_ID = 200
_MAX_CHOICES = 100
# One exchange is one example. A longer conversation would need a decision about who said what; we do not take it.
_ROLES = (["user", "assistant"], ["system", "user", "assistant"], ["developer", "user", "assistant"])


class SourceRow(Example):
    """An example that knows the line it came from, so that a later check can name it. The line is no part of it."""

    line: int = Field(default=0, exclude=True, repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Example) and self.model_dump() == other.model_dump()

    __hash__ = Example.__hash__


class SourceInput(PredictionInput):
    """A row without an answer. `answered`: the file had one, which was not read."""

    id: str
    line: int = Field(default=0, exclude=True, repr=False)
    answered: bool = Field(default=False, exclude=True, repr=False)


def parse_row(fields: Mapping[str, Any], line: int = 0) -> SourceRow:
    """Check every field that is read; others are ignored. A row without an `id` gets one made from its content."""
    if "messages" in fields:
        fields = {**fields, **_exchange(fields["messages"])}
    name, value = _pick(fields, INPUT_NAMES)
    text = _text(value, name)
    choices = _choices(fields.get("choices"))
    name, value = _pick(fields, OUTPUT_NAMES)
    output = _label(value, name)
    if choices and output not in choices:
        raise _refusal(name, f"'{shown(output)}' is not one of the choices: {shown(', '.join(choices))}")
    return SourceRow(
        id=_id(fields.get("id"), text, choices),
        input=text,
        output=output,
        choices=choices,
        rationale=_rationale(fields.get("rationale")),
        highlights=_highlights(fields.get("highlights"), len(text)),
        line=line,
    )


def parse_input(fields: Mapping[str, Any], line: int = 0) -> SourceInput:
    """Check the fields of a row that needs no answer. One that is there is not read: the row is as good without."""
    if "messages" in fields:
        fields = {**fields, **_question(fields["messages"])}
    name, value = _pick(fields, INPUT_NAMES)
    text, choices = _text(value, name), _choices(fields.get("choices"))
    answered = any(fields.get(name) not in (None, "") for name in OUTPUT_NAMES)
    return SourceInput(
        id=_id(fields.get("id"), text, choices), input=text, choices=choices, line=line, answered=answered
    )


def content_key(text: str, choices: Sequence[str] | None) -> str:
    """What makes two rows the same question: the input and its choices, whatever their spacing or Unicode form."""
    parts = [" ".join(unicodedata.normalize("NFC", part).split()) for part in (text, *(choices or ()))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def made_id(question: str) -> str:
    """The id of a row that has none, from its content key."""
    return f"row-{question[:24]}"


def shown(text: str, limit: int = 80) -> str:
    """A piece of the user's text that is safe in a message: short, printable, whole characters only."""
    cut = text if len(text) <= limit else f"{text[:limit]}..."
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in cut)


def _refusal(param: str, complaint: str) -> InvalidRequest:
    return InvalidRequest(f"{param} {complaint}", param=param)


# --- which fields --------------------------------------------------------------------------------------------------


def _pick(fields: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    """The one field that goes by one of the names. Two of them would be a guess, unless one has the first name."""
    found = [name for name in names if name in fields]
    if not found:
        there = shown(", ".join(map(str, fields))) or "nothing"
        raise _refusal(names[0], f"is missing (also read: {', '.join(names[1:])}); the row has {there}")
    if len(found) > 1 and found[0] != names[0]:
        raise _refusal(names[0], f"could be any of {', '.join(found)}: name one of them {names[0]}")
    return found[0], fields[found[0]]


def _exchange(messages: Any) -> dict[str, str]:
    """An OpenAI chat row: what the system and the user say is the input, the assistant's answer the output."""
    contents = _turns(messages, _ROLES)
    if (weight := messages[-1].get("weight")) not in (None, 1):
        complaint = (
            "is 0: nothing is to be learnt from this row" if weight == 0 else f"is 0 or 1, not {shown(str(weight))}"
        )
        raise _refusal(f"messages[{len(messages) - 1}].weight", complaint)
    return {"input": "\n\n".join(contents[:-1]), "output": contents[-1]}


def _question(messages: Any) -> dict[str, str]:
    """What the system and the user say in a chat row; an answer behind it is left out before anything is checked."""
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        messages = messages[:-1] if messages[-1].get("role") == "assistant" else messages
    return {"input": "\n\n".join(_turns(messages, [roles[:-1] for roles in _ROLES]))}


def _turns(messages: Any, expected: Sequence[list[str]]) -> list[str]:
    """What each speaks, where they speak in one of the expected orders."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _refusal("messages", "must be a list of messages with a role and a content")
    for i, message in enumerate(messages):
        if message.get("role") in ("tool", "function") or message.get("tool_calls") or message.get("function_call"):
            raise _refusal(f"messages[{i}]", "is about a tool's call, and what is trained here answers with text only")
    roles = [message.get("role") for message in messages]
    if roles not in expected:
        said = shown(", ".join(map(str, roles))) or "none"
        wanted = " and ".join(expected[0])
        raise _refusal("messages", f"must be of system (optional), {wanted}, one each, not {said}")
    return [_content(message.get("content"), f"messages[{i}].content") for i, message in enumerate(messages)]


def _content(value: Any, param: str) -> str:
    """A message's content is a string or a list of text parts."""
    if not isinstance(value, list):
        return _text(value, param)
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        raise _refusal(param, "has parts that are not text")
    return "".join(_text(part.get("text"), param) for part in value)


# --- what is in a field --------------------------------------------------------------------------------------------


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise _refusal(param, f"must be text, not {_kind(value)}")
    if not value.strip():
        raise _refusal(param, "is empty")
    if len(value) > MAX_TEXT_CHARS:
        raise _refusal(param, f"has {len(value)} characters, and at most {MAX_TEXT_CHARS} are read")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(value[error.start]):04X} at offset {error.start}"
        raise _refusal(param, f"holds {code}, half of a surrogate pair, which is no character") from None
    return value


def _label(value: Any, param: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    return _text(value, param).strip()


def _choices(value: Any) -> tuple[str, ...] | None:
    items = _items(value, "choices")
    if not items:
        return None
    # An answer that is listed twice is one answer: real data sets do that, and a probability needs one owner.
    choices = tuple(dict.fromkeys(_label(item, f"choices[{i}]") for i, item in enumerate(items)))
    if not 2 <= len(choices) <= _MAX_CHOICES:
        raise _refusal("choices", f"must be 2 to {_MAX_CHOICES} different answers, not {len(choices)}")
    return choices


def _highlights(value: Any, length: int) -> tuple[tuple[int, int], ...] | None:
    items = _items(value, "highlights")
    if items is None:
        return None
    for i, span in enumerate(items):
        if not isinstance(span, list | tuple) or len(span) != 2 or not all(type(end) is int for end in span):
            raise _refusal(f"highlights[{i}]", "must be [start, end], two whole numbers")
        if not 0 <= span[0] < span[1] <= length:
            where = f"[{span[0]}, {span[1]}]"
            raise _refusal(f"highlights[{i}]", f"{where} is outside of the input, which has {length} characters")
    return tuple((start, end) for start, end in items)


def _items(value: Any, param: str) -> list[Any] | None:
    """A list; a CSV cell holds it as JSON, and an empty cell is none."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            raise _refusal(param, "must be a list (in a CSV cell: a JSON list)") from None
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise _refusal(param, f"must be a list, not {_kind(value)}")
    return list(value)


def _rationale(value: Any) -> str | None:
    return None if value is None or value == "" else _text(value, "rationale")


def _id(value: Any, text: str, choices: Sequence[str] | None) -> str:
    if value is None or value == "":
        return made_id(content_key(text, choices))
    name = _label(value, "id")
    if len(name) > _MAX_ID:
        raise _refusal("id", f"has {len(name)} characters, and at most {_MAX_ID} are read")
    return name


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    names = {dict: "an object", list: "a list", bool: "a boolean", int: "a number", float: "a number", bytes: "bytes"}
    return names.get(type(value), type(value).__name__)
