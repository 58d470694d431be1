"""The fake teacher that ships with the package keeps the same promises as the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from understudy.client import TeacherClient
from understudy.errors import ModelNotFound, Overloaded
from understudy.schemas import (
    AttributionExample,
    AttributionRequest,
    AttributionResponse,
    ModelInfo,
    PredictionResponse,
)
from understudy.testing import LABELS, SENTENCES, FakeTeacher

pytestmark = pytest.mark.anyio

Call = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture(params=["real", "fake"])
async def call(request: pytest.FixtureRequest, serve: Any) -> AsyncIterator[Call]:
    if request.param == "real":
        async with serve() as client:
            yield client.request
    else:
        with httpx.Client(transport=FakeTeacher(("classifier",)), base_url="http://teacher") as client:

            async def send(method: str, path: str, **options: Any) -> httpx.Response:
                return client.request(method, path, **options)

            yield send


async def test_attributions_have_one_shape(call: Call) -> None:
    examples = [{"id": str(i), "input": text, "output": "neutral"} for i, text in enumerate(SENTENCES)]
    body = {"examples": examples, "labels": LABELS, "target": "gold", "top_k": 3}
    found = AttributionResponse.model_validate((await call("POST", "/v1/attributions", json=body)).json())
    facts = ModelInfo.model_validate((await call("GET", "/v1/models/classifier")).json())
    assert found.fingerprint == facts.fingerprint
    assert (found.model, found.method, found.target) == ("classifier", "saliency", "gold")
    for example, one in zip(examples, found.results, strict=True):
        assert (one.id, one.explained) == (example["id"], "neutral")
        assert all(example["input"][word.start : word.end] == word.text for word in one.words)
        assert len(one.rationale) == 3
        assert list(one.rationale) == [word for word in one.words if word in one.rationale]
        assert one.probabilities is not None
        assert sum(one.probabilities.values()) == pytest.approx(1)
        assert one.probability == one.probabilities[one.prediction] == max(one.probabilities.values())


async def test_predictions_have_one_shape(call: Call) -> None:
    for explain in (True, False):
        body = {"inputs": [SENTENCES[0], {"id": "b", "input": "fine"}], "labels": LABELS, "explain": explain}
        found = PredictionResponse.model_validate((await call("POST", "/v1/predictions", json=body)).json())
        assert [one.id for one in found.predictions] == [None, "b"]
        assert all((one.words is not None) == explain and one.label in LABELS for one in found.predictions)
        assert found.reasons == ("saliency" if explain else None)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("GET", "/v1/models/nobody", None, 404, "model"),
        ("POST", "/v1/attributions", {"model": "nobody", "examples": [{"input": "x"}]}, 404, "model"),
        ("POST", "/v1/attributions", {"examples": [{"input": "x"}], "target": "gold"}, 400, "examples[0].output"),
        ("POST", "/v1/attributions", {"examples": []}, 400, "examples"),
        ("GET", "/v1/nothing", None, 404, None),
    ],
)
async def test_errors_have_one_shape(
    call: Call, method: str, path: str, body: Any, status: int, param: str | None
) -> None:
    answer = await call(method, path, json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_health_and_the_list_of_models(call: Call) -> None:
    assert (await call("GET", "/livez")).status_code == 200
    await call("GET", "/v1/models/classifier")
    listed = (await call("GET", "/v1/models")).json()
    assert listed["object"] == "list"
    assert [ModelInfo.model_validate(one).architecture for one in listed["data"]] == ["classifier"]


def test_the_fake_fails_when_told_and_remembers_what_it_was_asked() -> None:
    teacher = FakeTeacher()
    request = AttributionRequest(examples=(AttributionExample(input="x"),), labels=("a", "b"))
    teacher.fail_next(Overloaded("full", retry_after=3))
    with TeacherClient("http://teacher", transport=teacher) as client:
        with pytest.raises(Overloaded) as caught:
            client.attribute(request)
        assert caught.value.retry_after == 3
        assert client.attribute(request).results[0].prediction == "a"
        with pytest.raises(ModelNotFound):
            client.model("nobody")
    assert teacher.requests == [request, request]
