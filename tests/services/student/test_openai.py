"""The stock `openai` client against a student that listens on a port, and what it never sends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0) as stock:
        yield stock


def user(*texts: str) -> list[Any]:
    return [{"role": "user", "content": text} for text in texts]


def test_what_the_stock_client_asks(client: openai.OpenAI, address: str) -> None:
    """One server for all of it: starting one takes longer than asking it."""
    _models_are_listed(client)
    native = httpx.post(f"http://{address}/v1/predictions", json={"inputs": ["a dull film"], "top_k": 2}).json()
    (expected,) = native["predictions"]
    _a_chat_is_the_native_answer(client, native, expected)
    _a_stream_is_the_same(client, expected)
    _completions_answer_each_prompt(client, expected)
    _an_answer_that_broke_off_has_another_reason_to_end(client, address)
    _system_and_user_are_read_as_they_were_taught(client, address)
    _a_choice_is_among_its_choices(client)
    _what_cannot_be_done_is_refused_by_name(client)


def _models_are_listed(client: openai.OpenAI) -> None:
    (listed,) = client.models.list()
    found = client.models.retrieve("production")
    assert (listed.object, listed.id, found.id) == ("model", found.id, listed.id)
    assert (listed.owned_by, listed.created > 0) == ("understudy", True)
    with pytest.raises(openai.NotFoundError, match="aliases: production, writer"):
        client.models.retrieve("nothing")


def _a_chat_is_the_native_answer(client: openai.OpenAI, native: Any, expected: Any) -> None:
    given = client.chat.completions.create(
        model="production",
        messages=user("a dull film"),
        logprobs=True,
        top_logprobs=2,
        temperature=0,
        max_tokens=1,
        extra_body={"explain": True, "top_k": 2},
    )
    (choice,) = given.choices
    assert (choice.message.role, choice.message.content) == ("assistant", expected["label"])
    assert (given.model, given.system_fingerprint) == ("production", native["artifact"])
    assert choice.finish_reason == "stop"
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    (entry,) = choice.logprobs.content
    assert math.exp(entry.logprob) == pytest.approx(expected["probability"])
    assert bytes(entry.bytes or ()).decode() == entry.token == expected["label"]
    likeliest = sorted(expected["probabilities"], key=lambda label: -expected["probabilities"][label])[:2]
    assert [one.token for one in entry.top_logprobs] == likeliest
    assert choice.words == expected["words"]  # type: ignore[attr-defined]
    assert given.reasons == "gate"  # type: ignore[attr-defined]
    assert given.usage is not None
    assert given.usage.prompt_tokens > given.usage.completion_tokens >= 1
    assert given.usage.total_tokens == given.usage.prompt_tokens + given.usage.completion_tokens
    plain = client.chat.completions.create(model="production", messages=user("a dull film")).choices[0]
    assert (plain.logprobs, plain.words) == (None, None)  # type: ignore[attr-defined]


def _a_stream_is_the_same(client: openai.OpenAI, expected: Any) -> None:
    with client.chat.completions.stream(
        model="production", messages=user("a dull film"), stream_options={"include_usage": True}, logprobs=True
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == expected["label"]
    assert final.choices[0].finish_reason == "stop"
    assert final.usage is not None
    assert final.choices[0].logprobs is not None
    texts = [
        chunk.choices[0].text
        for chunk in client.completions.create(model="production", prompt="a dull film", stream=True)
    ]
    assert texts == [expected["label"]]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="production", messages=user(" "), stream=True)


def _completions_answer_each_prompt(client: openai.OpenAI, expected: Any) -> None:
    given = client.completions.create(model="production", prompt=["a dull film", "I love it"], logprobs=3)
    assert [choice.index for choice in given.choices] == [0, 1]
    first = given.choices[0]
    assert first.text == expected["label"]
    assert first.logprobs is not None
    (top,) = first.logprobs.top_logprobs or ()
    assert {label: math.exp(value) for label, value in top.items()} == pytest.approx(expected["probabilities"])
    assert client.completions.create(model="writer", prompt="a film").choices[0].text is not None


def _an_answer_that_broke_off_has_another_reason_to_end(client: openai.OpenAI, address: str) -> None:
    asked = {"model": "writer", "inputs": ["a film"], "explain": False}
    (native,) = httpx.post(f"http://{address}/v1/predictions", json=asked).json()["predictions"]
    assert native["unfinished"]  # a model that nobody trained writes on and on
    completed = client.completions.create(model="writer", prompt="a film").choices[0]
    chunks = list(client.chat.completions.create(model="writer", messages=user("a film"), stream=True))
    assert completed.text == native["label"] == chunks[0].choices[0].delta.content
    assert [completed.finish_reason, *(chunk.choices[0].finish_reason for chunk in chunks)] == [
        "length",
        None,
        "length",
    ]


def _system_and_user_are_read_as_they_were_taught(client: openai.OpenAI, address: str) -> None:
    messages: list[Any] = [{"role": "system", "content": "Be fair."}, *user("a dull film")]
    given = client.chat.completions.create(model="production", messages=messages, logprobs=True).choices[0]
    taught = {"inputs": ["Be fair.\n\na dull film"], "explain": False}
    (native,) = httpx.post(f"http://{address}/v1/predictions", json=taught).json()["predictions"]
    assert given.logprobs is not None
    assert given.logprobs.content is not None
    assert math.exp(given.logprobs.content[0].logprob) == pytest.approx(native["probability"])


def _a_choice_is_among_its_choices(client: openai.OpenAI) -> None:
    given = client.chat.completions.create(
        model="writer",
        messages=user("which?"),
        logprobs=True,
        top_logprobs=20,
        extra_body={"choices": ["the first", "the second"]},
    ).choices[0]
    assert given.message.content in ("the first", "the second")
    assert given.logprobs is not None
    assert given.logprobs.content is not None
    assert len(given.logprobs.content[0].top_logprobs) == 2


def _what_cannot_be_done_is_refused_by_name(client: openai.OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"n": 2}, "n"),
        ({"tools": [tool]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"stop": ["x"]}, "stop"),
        ({"logit_bias": {"5": 3}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"temperature": 7}, "temperature"),
        ({"extra_body": {"mesages": 1}}, "mesages"),
        ({"extra_body": {"choices": ["good", "bad"]}}, "choices"),
        ({"messages": []}, "messages"),
        ({"messages": user("a", "b")}, "messages"),
        ({"messages": user(" ")}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    ]
    for fields, param in refused:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{"model": "production", "messages": user("a film")} | fields)
        assert caught.value.param == param, fields
    with pytest.raises(openai.BadRequestError, match=r"prompt\[1\] is blank"):
        client.completions.create(model="production", prompt=["a", " "])
