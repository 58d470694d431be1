"""The student's routes as a client meets them: answers, limits, and errors in the one shape."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from services.student.app import create_app
from services.student.settings import Settings
from understudy.schemas import MAX_TEXT_CHARS, PredictionResponse

pytestmark = pytest.mark.anyio

TORTURE = (
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 family of \U0001f1e9\U0001f1ea",
    "e\u0301clair cafe\u0301 \ufb01ne \u2168",
    "नमस्ते दुनिया",
    "\u202eevil\u202c שלום",
    "漢字とかな",
    "zero\u200bwidth\ufeff \u00ad soft",
    "a\x00b\x07c\r\n\td",
    "?!...",
    "word " * 3000,
    "[SEP] [CLS] </s>",
)


@pytest.fixture
async def student(running: Any, store: Any, publish: Callable[..., str]) -> AsyncIterator[Any]:
    publish("one", "production")
    async with running(store, max_inputs=20, max_request_chars=200_000, max_body_bytes=1_000_000) as service:
        await service.until_ready()
        yield service


def error_of(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


async def test_an_answer_says_which_model_and_where_its_reasons_come_from(student: Any, store: Any) -> None:
    answer = await student.ask("The plot is thin", {"id": "b", "input": "a dull film"}, top_k=2)
    found = PredictionResponse.model_validate(answer.json())
    assert (found.model, found.artifact, found.reasons) == ("production", store.resolve("production"), "gate")
    assert [prediction.id for prediction in found.predictions] == [None, "b"]
    for prediction, text in zip(found.predictions, ("The plot is thin", "a dull film"), strict=True):
        assert sum((prediction.probabilities or {}).values()) == pytest.approx(1)
        assert prediction.words is not None
        assert len(prediction.words) == 2
        assert all(text[word.start : word.end] == word.text for word in prediction.words)


async def test_without_explain_there_are_no_words_and_no_reasons(student: Any) -> None:
    body = (await student.ask("The plot is thin", explain=False)).json()
    assert body["reasons"] is None
    assert body["predictions"][0]["words"] is None


@pytest.mark.parametrize("model", ["one", "three", "writer"])
async def test_every_word_of_a_torture_text_is_a_span_of_it(
    running: Any, store: Any, publish: Callable[..., str], model: str
) -> None:
    publish(model, "production")
    async with running(store) as service:
        inputs = [{"input": text, "choices": ["positive", "negative"]} for text in TORTURE]
        answer = await service.ask(*inputs, top_k=6)
        assert answer.status_code == 200, answer.text
        for text, prediction in zip(TORTURE, answer.json()["predictions"], strict=True):
            for word in prediction["words"]:
                assert text[word["start"] : word["end"]] == word["text"]


async def test_every_row_has_its_own_choices(running: Any, store: Any, publish: Callable[..., str]) -> None:
    publish("writer", "production")
    async with running(store) as service:
        rows = [{"input": "which?", "choices": [f"a{i}", f"b{i}"]} for i in range(4)]
        body = (await service.ask(*rows, explain=False)).json()
        assert [set(p["probabilities"]) for p in body["predictions"]] == [{f"a{i}", f"b{i}"} for i in range(4)]


async def test_the_models_in_memory_are_described(student: Any, store: Any) -> None:
    artifact = store.resolve("production")
    listed = await student.models()
    assert listed["object"] == "list"
    (described,) = listed["data"]
    assert (described["id"], described["aliases"], described["reasons"]) == (artifact, ["production"], "gate")
    assert described["task"]["labels"] == ["negative", "neutral", "positive"]
    for name in (artifact, "production"):
        assert (await student.http.get(f"/v1/models/{name}")).json() == described
    error_of(await student.http.get("/v1/models/nothing"), 404)


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": "a text"}, "inputs"),
        ({"inputs": ["a", "b", "c", ""]}, "inputs[3]"),
        ({"inputs": ["a", "b", "c", " \n\u2003"]}, "inputs[3]"),
        ({"inputs": ["a", 5]}, "inputs[1]"),
        ({"inputs": ["a", None]}, "inputs[1]"),
        ({"inputs": ["a", {"id": "x"}]}, "inputs[1].input"),
        ({"inputs": ["a", {"input": "x", "inptu": "y"}]}, "inputs[1].inptu"),
        ({"inputs": [{"input": "x", "choices": ["one"]}]}, "inputs[0].choices"),
        ({"inputs": [{"input": "x", "choices": ["positive", "positive"]}]}, "inputs[0].choices"),
        ({"inputs": ["a", {"input": "x", "choices": ["positive", "good"]}]}, "inputs[1].choices"),
        ({"inputs": ["a" * (MAX_TEXT_CHARS + 1)]}, "inputs[0]"),
        ({"inputs": ["a"], "labels": ["positive", "positive"]}, "labels"),
        ({"inputs": ["a"], "labels": ["positive", "good"]}, "labels"),
        ({"inputs": ["a"], "template": "no place"}, "template"),
        ({"inputs": ["a"], "top_k": 0}, "top_k"),
        ({"inputs": ["a"], "explain": "perhaps"}, "explain"),
        ({"inputs": ["a"], "modle": "x"}, "modle"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_field_that_cannot_be_read_is_named(student: Any, body: dict[str, Any], param: str) -> None:
    answer = await student.http.post("/v1/predictions", json=body)
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]["param"] == param


async def test_a_lone_surrogate_is_refused_by_name(student: Any) -> None:
    content = rb'{"inputs": ["fine", "half \ud83d of a pair"]}'
    answer = await student.http.post("/v1/predictions", content=content, headers={"content-type": "application/json"})
    assert error_of(answer, 400)["param"] == "inputs[1]"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"inputs": ["a"', b"\xff\xfe", b"[" * 10_000])
async def test_a_body_that_is_no_json_object_is_refused(student: Any, content: bytes) -> None:
    answer = await student.http.post("/v1/predictions", content=content, headers={"content-type": "application/json"})
    error_of(answer, 400)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream"])
async def test_another_content_type_is_refused(student: Any, kind: str) -> None:
    content = json.dumps({"inputs": ["a"]})
    answer = await student.http.post("/v1/predictions", content=content, headers={"content-type": kind})
    assert "application/json" in error_of(answer, 415)["message"]


async def test_too_much_of_anything_is_refused_with_the_limit(student: Any) -> None:
    assert "at most 20" in error_of(await student.ask(*["a"] * 21), 413)["message"]
    assert "at most 200000" in error_of(await student.ask(*["a" * 50_000] * 5), 413)["message"]
    assert "1000000 bytes" in error_of(await student.ask(*["a" * 99_000] * 11), 413)["message"]
    choices = [str(i) for i in range(1001)]
    assert error_of(await student.ask({"input": "a", "choices": choices}), 413)["param"] == "inputs[0].choices"


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", ""])
async def test_a_deadline_that_is_none_is_refused_by_name(student: Any, seconds: str) -> None:
    headers = {"X-Request-Timeout": seconds}
    answer = await student.http.post("/v1/predictions", json={"inputs": ["a"]}, headers=headers)
    assert error_of(answer, 400)["param"] == "X-Request-Timeout"


async def test_a_request_that_is_late_is_told_so(student: Any) -> None:
    headers = {"X-Request-Timeout": "0.000001"}
    answer = await student.http.post("/v1/predictions", json={"inputs": ["a"]}, headers=headers)
    assert error_of(answer, 504)["code"] == "deadline_exceeded"
    patient = await student.http.post("/v1/predictions", json={"inputs": ["a"]}, headers={"X-Request-Timeout": "30"})
    assert patient.status_code == 200


async def test_a_full_queue_sends_away_with_the_time_to_wait(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    publish("one", "production")
    async with running(store, max_queue=2) as service:
        await service.until_ready()
        answers = await asyncio.gather(*(service.ask(*["a film"] * 50) for _ in range(20)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert refused[0].json()["error"]["type"] == "rate_limit_error"
        for answer in refused:
            assert error_of(answer, 429)["code"] == "overloaded"
            assert int(answer.headers["retry-after"]) >= 1
        assert (await service.ask()).status_code == 200


# --- settings ------------------------------------------------------------------------------------------------------


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_ARTIFACTS", "s3://bucket/models")
    monkeypatch.setenv("UNDERSTUDY_STUDENT_ALIAS", "stable")
    monkeypatch.setenv("UNDERSTUDY_STUDENT_PORT", "9002")
    settings = Settings()
    assert (settings.artifacts, settings.alias, settings.port) == ("s3://bucket/models", "stable", 9002)


def test_the_application_is_made_without_a_store_or_a_model() -> None:
    assert {"/v1/predictions", "/v1/models", "/v1/models/{model}", "/livez", "/readyz"} <= set(
        create_app(Settings(artifacts="/nowhere/at/all")).openapi()["paths"]
    )
