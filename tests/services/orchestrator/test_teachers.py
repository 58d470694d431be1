"""The teachers: patience with one that is busy, smaller requests where one is too large, and no belief in nonsense."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from services.orchestrator.settings import Settings
from services.orchestrator.teachers import Teachers
from understudy.errors import InvalidRequest, LeaseLost, Overloaded, PayloadTooLarge, Unavailable
from understudy.schemas import AttributionExample, AttributionRequest, PredictionInput, PredictionRequest
from understudy.testing import FakeTeacher

Change = Callable[[dict[str, Any]], None]


class Liar(httpx.BaseTransport):
    """A teacher whose answers are changed on the way."""

    def __init__(self, change: Change) -> None:
        self.honest = FakeTeacher()
        self.change = change

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(self.honest.handle_request(request).read())
        self.change(body)
        return httpx.Response(200, content=json.dumps(body))


def attribution(count: int) -> AttributionRequest:
    examples = tuple(AttributionExample(id=f"{i}", input=f"text {i} is great", output="great") for i in range(count))
    return AttributionRequest(model="teacher", examples=examples, labels=("awful", "great"), target="gold")


def prediction(count: int) -> PredictionRequest:
    inputs = tuple(PredictionInput(id=f"{i}", input=f"text {i} is great") for i in range(count))
    return PredictionRequest(model="teacher", inputs=inputs, labels=("awful", "great"), explain=False)


def teachers(settings: Settings, transport: httpx.BaseTransport, **changes: Any) -> Teachers:
    return Teachers(settings.model_copy(update=changes), transport)


def nothing() -> None:
    return None


@pytest.mark.parametrize(("key", "header"), [("sk-one", "Bearer sk-one"), (None, None)])
def test_the_teachers_key_is_brought_where_there_is_one(
    settings: Settings, key: str | None, header: str | None
) -> None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return FakeTeacher().handle_request(request)

    teachers(settings, httpx.MockTransport(answer), teacher_api_key=key).attribute(attribution(1), nothing)
    assert set(seen) == {header}


def test_requests_are_as_large_as_the_setting_allows_and_answers_are_in_order(settings: Settings) -> None:
    fake = FakeTeacher()
    pool = teachers(settings, fake, teacher_max_examples=4)
    answers = pool.attribute(attribution(10), nothing)
    assert [result.id for answer in answers for result in answer.results] == [f"{i}" for i in range(10)]
    assert [len(request.examples) for request in fake.requests] == [4, 4, 2]
    assert [one.id for one in pool.predict(prediction(10), nothing)] == [f"{i}" for i in range(10)]


def test_a_request_that_is_too_large_for_the_teacher_is_halved(settings: Settings) -> None:
    fake = FakeTeacher()
    fake.fail_next(PayloadTooLarge("too many"), PayloadTooLarge("too many"))
    answers = teachers(settings, fake).attribute(attribution(8), nothing)
    assert [result.id for answer in answers for result in answer.results] == [f"{i}" for i in range(8)]
    assert [len(request.examples) for request in fake.requests] == [8, 4, 2, 2, 4]


def test_one_example_that_is_too_large_is_an_error_and_not_asked_again(settings: Settings) -> None:
    fake = FakeTeacher()
    fake.fail_next(PayloadTooLarge("examples[0] is too long", param="examples"))
    with pytest.raises(PayloadTooLarge, match="too long"):
        teachers(settings, fake).attribute(attribution(1), nothing)
    assert len(fake.requests) == 1


def test_a_busy_teacher_is_asked_again_until_it_answers(settings: Settings) -> None:
    fake = FakeTeacher()
    fake.fail_next(Overloaded("full"), Unavailable("loading"))
    assert teachers(settings, fake, teacher_patience=10.0).predict(prediction(1), nothing)[0].label == "great"
    assert len(fake.requests) == 3


def test_the_wait_that_a_teacher_asks_for_is_kept(settings: Settings) -> None:
    fake = FakeTeacher()
    fake.fail_next(Overloaded("full", retry_after=1))
    started = time.monotonic()
    teachers(settings, fake, teacher_patience=10.0).predict(prediction(1), nothing)
    assert time.monotonic() - started >= 1.0


def test_patience_ends_with_what_the_teacher_said_last(settings: Settings) -> None:
    fake = FakeTeacher()
    fake.fail_next(*[Overloaded("full")] * 1000)
    with pytest.raises(Overloaded, match="full"):
        teachers(settings, fake, teacher_patience=0.2).predict(prediction(1), nothing)


def test_an_error_that_waiting_cannot_mend_is_raised_at_once(settings: Settings) -> None:
    fake = FakeTeacher()
    fake.fail_next(InvalidRequest("no such method", param="method"))
    with pytest.raises(InvalidRequest):
        teachers(settings, fake).attribute(attribution(1), nothing)
    assert len(fake.requests) == 1


def test_a_teacher_that_is_away_is_passed_over_for_another(settings: Settings) -> None:
    class OneAway(FakeTeacher):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.host == "away":
                raise httpx.ConnectError("refused")
            return super().handle_request(request)

    urls = ("http://away", "http://there")
    pool = teachers(settings, OneAway(), teacher_urls=urls, teacher_patience=10.0)
    assert len(pool.predict(prediction(1), nothing)) == 1
    assert len(pool.predict(prediction(1), nothing)) == 1


def test_a_worker_that_must_stop_does_not_wait_for_a_teacher(settings: Settings) -> None:
    fake = FakeTeacher()
    fake.fail_next(*[Overloaded("full", retry_after=60)] * 10)
    end = time.monotonic() + 0.3

    def check() -> None:
        if time.monotonic() > end:
            raise LeaseLost("cancelled")

    with pytest.raises(LeaseLost):
        teachers(settings, fake, teacher_patience=600.0).predict(prediction(1), check)
    assert time.monotonic() < end + 2


def _swap_ids(body: dict[str, Any]) -> None:
    body["results"][0]["id"], body["results"][1]["id"] = body["results"][1]["id"], body["results"][0]["id"]


def _drop_one(body: dict[str, Any]) -> None:
    body["results"].pop()


def _nan_score(body: dict[str, Any]) -> None:
    body["results"][1]["words"][0]["score"] = float("nan")


def _infinite_probability(body: dict[str, Any]) -> None:
    body["results"][0]["probabilities"]["great"] = float("inf")


@pytest.mark.parametrize("change", [_swap_ids, _drop_one, _nan_score, _infinite_probability])
def test_an_answer_that_cannot_be_true_is_refused_and_may_be_tried_again(settings: Settings, change: Change) -> None:
    with pytest.raises(Unavailable) as caught:
        teachers(settings, Liar(change)).attribute(attribution(3), nothing)
    assert caught.value.retryable


def test_a_prediction_that_cannot_be_true_is_refused(settings: Settings) -> None:
    def change(body: dict[str, Any]) -> None:
        body["predictions"][0]["probability"] = float("nan")

    with pytest.raises(Unavailable, match="'0' are not finite"):
        teachers(settings, Liar(change)).predict(prediction(2), nothing)


class _OneLies(httpx.BaseTransport):
    """Two addresses, of which one changes its answers, or fails in a way of its own."""

    def __init__(self, lie: Callable[[httpx.Request], httpx.Response]) -> None:
        self.honest = FakeTeacher()
        self.lie = lie
        self.lies = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host != "liar":
            return self.honest.handle_request(request)
        self.lies += 1
        return self.lie(request)


@pytest.mark.parametrize(
    "lie",
    [
        lambda request: Liar(_nan_score).handle_request(request),
        lambda request: Liar(_drop_one).handle_request(request),
        lambda request: Liar(lambda body: body.pop("fingerprint")).handle_request(request),
        lambda _: httpx.Response(200, content=b'{"results": [{"id": "0", "wor'),
        lambda _: httpx.Response(500, content=b"Internal Server Error"),
    ],
    ids=["not a number", "wrong length", "a field is missing", "cut short", "500"],
)
def test_a_teacher_that_answers_nonsense_is_passed_over_for_another(settings: Settings, lie: Any) -> None:
    transport = _OneLies(lie)
    pool = teachers(settings, transport, teacher_urls=("http://liar", "http://honest"), teacher_patience=10.0)
    answers = pool.attribute(attribution(3), nothing)
    assert [result.id for result in answers[0].results] == ["0", "1", "2"]
    assert transport.lies == 1
