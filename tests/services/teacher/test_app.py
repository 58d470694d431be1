"""The teacher service over HTTP, in-process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from services.teacher.engine import Engine, Model, Place
from services.teacher.settings import Settings
from understudy.schemas import AttributionResponse, ModelInfo, PredictionResponse
from understudy.testing import LABELS, SENTENCES

pytestmark = pytest.mark.anyio

Serve = Callable[..., Any]

ONE = {"examples": [{"input": SENTENCES[0], "output": "positive"}], "target": "gold"}


async def ready(client: Any) -> dict[str, Any]:
    """Wait until the service says that it is ready, and return what it says."""
    while True:
        answer = await client.get("/readyz")
        if answer.status_code == 200:
            return dict(answer.json())
        assert answer.status_code == 503
        await asyncio.sleep(0.01)


def _rounded(answer: Any) -> Any:
    """The same JSON with every number to five digits."""
    if isinstance(answer, float):
        return pytest.approx(answer, rel=1e-5, abs=1e-7)
    if isinstance(answer, dict):
        return {key: _rounded(value) for key, value in answer.items()}
    return [_rounded(value) for value in answer] if isinstance(answer, list) else answer


async def test_attributions_come_back_in_order_with_their_provenance(serve: Serve) -> None:
    body = {
        "model": "writer",
        "examples": [{"id": str(i), "input": text, "output": "neutral"} for i, text in enumerate(SENTENCES)],
        "labels": LABELS,
        "method": "integrated_gradients",
        "target": "gold",
        "top_k": 3,
        "template": "Review: {input}",
    }
    async with serve() as client:
        answer = await client.post("/v1/attributions", json=body)
        facts = ModelInfo.model_validate((await client.get("/v1/models/writer")).json())
    found = AttributionResponse.model_validate(answer.json())
    assert [one.id for one in found.results] == [str(i) for i in range(len(SENTENCES))]
    assert all(len(one.rationale) <= 3 and one.explained == "neutral" for one in found.results)
    assert (found.model, found.method, found.target, found.precision) == (
        "writer",
        "integrated_gradients",
        "gold",
        "float32",
    )
    assert found.fingerprint == facts.fingerprint
    assert (facts.architecture, facts.id, facts.device) == ("seq2seq", "writer", "cpu")


async def test_predictions_name_their_words(serve: Serve) -> None:
    async with serve() as client:
        answer = await client.post("/v1/predictions", json={"inputs": [SENTENCES[0], {"id": "b", "input": "fine"}]})
    found = PredictionResponse.model_validate(answer.json())
    assert (found.model, found.reasons) == ("classifier", "saliency")
    assert [one.id for one in found.predictions] == [None, "b"]
    assert all(one.words for one in found.predictions)


@pytest.mark.parametrize(
    ("change", "status", "code", "param", "words"),
    [
        ({"model": "nobody"}, 404, "model_not_found", "model", "Give an artifact id, an alias, a folder"),
        ({"model": "/no/folder"}, 404, "model_not_found", "model", "as a folder it does not exist"),
        ({"model": "model-" + "0" * 24}, 404, "model_not_found", "model", "no artifact"),
        ({"method": "salience"}, 400, "unknown_name", "method", "Did you mean 'saliency'"),
        ({"examples": [{"input": "a"}] * 3}, 400, "invalid_request", "examples[0].output", "missing"),
        (
            {"examples": [{"input": "a", "output": "positive"}, {"input": "b"}]},
            400,
            "invalid_request",
            "examples[1].output",
            "'predicted'",
        ),
        (
            {"examples": [{"input": "a", "output": "joyful"}]},
            400,
            "invalid_request",
            "examples[0].output",
            "'negative', 'neutral', 'positive'",
        ),
        ({"labels": ["a", "positive"]}, 422, "model_error", "labels", "it has negative, neutral, positive"),
        ({"labels": ["positive"]}, 400, "invalid_request", "labels", "at least 2"),
        ({"template": "no place"}, 400, "invalid_request", "template", "{input} exactly once"),
        ({"template": "word " * 4000 + "{input}"}, 400, "invalid_request", "template", "at most 20000 characters"),
        ({"template": "word " * 90 + "{input}"}, 422, "model_error", "template", "shorten the template"),
        ({"examples": [{"input": "a", "output": "positive"}] * 9}, 413, "payload_too_large", "examples", "at most 8"),
        ({"examples": [{"input": "a " * 60_000}]}, 400, "invalid_request", "examples[0].input", "100000"),
        ({"top_k": 0}, 400, "invalid_request", "top_k", "greater"),
        ({"settings": {"steps": 5}}, 400, "invalid_request", "settings.steps", "no such setting"),
        (
            {"method": "integrated_gradients", "settings": {"n_steps": 500}},
            400,
            "invalid_request",
            "settings.n_steps",
            "at most 200 here",
        ),
        ({"examples": [{"input": "a b " * 25_000}] * 8}, 413, "payload_too_large", "examples", "characters together"),
        (
            {"examples": [{"input": "dull film " * 99}] * 8, "target": "predicted"},
            413,
            "payload_too_large",
            "examples",
            "tokens together",
        ),
        (
            {"method": "integrated_gradients", "settings": {"n_steps": 200}, "examples": ONE["examples"] * 8},
            413,
            "payload_too_large",
            "examples",
            "every pass that they ask for",
        ),
        (
            {
                "examples": [
                    {"input": "a", "output": "positive", "against": "neutral"},
                    {"input": "b", "output": "neutral"},
                ]
            },
            400,
            "invalid_request",
            "examples[1].against",
            "other examples of the request name one",
        ),
        ({"metod": "saliency"}, 400, "invalid_request", "metod", "no such field"),
    ],
)
async def test_a_wrong_request_is_told_what_would_be_right(
    serve: Serve, change: dict[str, Any], status: int, code: str, param: str, words: str
) -> None:
    limits = {"max_examples": 8, "max_request_chars": 500_000, "max_request_tokens": 400, "max_request_work": 10_000}
    async with serve(**limits) as client:
        answer = await client.post("/v1/attributions", json=ONE | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert words in error["message"]


async def test_a_template_that_is_no_text_is_refused(serve: Serve) -> None:
    body = rb'{"inputs": ["a dull film"], "template": "\ud800 {input}"}'
    async with serve() as client:
        answer = await client.post("/v1/predictions", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "template")


async def test_a_service_without_a_default_model_asks_for_one(serve: Serve) -> None:
    async with serve(model=None) as client:
        assert (await ready(client))["model"] is None
        answer = await client.post("/v1/attributions", json=ONE)
        assert answer.json()["error"]["param"] == "model"
        assert (await client.post("/v1/attributions", json=ONE | {"model": "classifier"})).status_code == 200


async def test_a_model_is_loaded_by_its_folder(serve: Serve, folder: Path) -> None:
    body = ONE | {"model": str(folder), "examples": [{"input": "fine", "output": "yes"}]}
    async with serve() as client:
        answer = await client.post("/v1/attributions", json=body)
        facts = await client.get(f"/v1/models/{folder}")
    assert set(answer.json()["results"][0]["probabilities"]) == {"no", "yes"}
    assert facts.json()["task"]["labels"] == ["no", "yes"]


async def test_numbers_that_are_no_numbers_are_an_error(serve: Serve, settings: Callable[..., Settings]) -> None:
    class Broken(Engine):
        def load(self, place: Place) -> Model:
            model = super().load(place)
            model.adapter.model.head.weight.data.fill_(float("nan"))
            return model

    body = {"examples": [{"input": text, "output": "positive"} for text in SENTENCES], "target": "gold"}
    async with serve(Broken(settings())) as client:
        answer = await client.post("/v1/attributions", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "examples[0]"


async def test_the_service_is_ready_when_the_default_model_has_answered(
    serve: Serve, settings: Callable[..., Settings]
) -> None:
    release = threading.Event()

    class Slow(Engine):
        def load(self, place: Place) -> Model:
            release.wait(10)
            return super().load(place)

    async with serve(Slow(settings())) as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert "is being loaded" in answer.json()["error"]["message"]
        assert (await client.get("/livez")).status_code == 200
        release.set()
        assert len((await ready(client))["loaded"]) == 1
        assert [model["architecture"] for model in (await client.get("/v1/models")).json()["data"]] == ["classifier"]


async def test_a_default_model_that_appears_later_makes_the_service_ready(
    serve: Serve, tmp_path: Path, folder: Path
) -> None:
    place = tmp_path / "later"
    async with serve(model=str(place)) as client:
        while "could not be loaded" not in (answer := await client.get("/readyz")).text:
            await asyncio.sleep(0.01)
        assert answer.status_code == 503
        assert "as a folder it does not exist" in answer.json()["error"]["message"]
        folder.rename(place)
        assert (await ready(client))["model"] == str(place)


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(
    serve: Serve, settings: Callable[..., Settings]
) -> None:
    release = threading.Event()

    class Busy(Engine):
        def explain(self, *args: Any) -> Any:
            started.set()
            release.wait(10)
            return super().explain(*args)

    started = threading.Event()
    bodies = [ONE | {"examples": [{"input": text, "output": "positive"}]} for text in SENTENCES[:3]]
    async with serve(Busy(settings(max_queue=2))) as client:
        waiting = [asyncio.create_task(client.post("/v1/attributions", json=body)) for body in bodies[:2]]
        await asyncio.to_thread(started.wait, 10)
        await asyncio.sleep(0.05)
        refused = await client.post("/v1/attributions", json=bodies[2])
        release.set()
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
        assert (await client.post("/v1/attributions", json=bodies[2])).status_code == 200
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "overloaded"
    assert int(refused.headers["retry-after"]) >= 1


async def test_requests_side_by_side_are_answered_as_one_by_one(serve: Serve) -> None:
    bodies = [
        {"model": model, "examples": [{"input": text, "output": "neutral"}], "target": "gold", "labels": LABELS}
        for text in SENTENCES[:4]
        for model in ("classifier", "writer", "decoder")
    ]
    async with serve(max_models=3, cache_bytes=0) as client:
        alone = [(await client.post("/v1/attributions", json=body)).json() for body in bodies]
        together = await asyncio.gather(*(client.post("/v1/attributions", json=body) for body in bodies))
    for answer, expected in zip(together, alone, strict=True):
        assert answer.json() == _rounded(expected)  # neighbours in a batch change rounding, and nothing else


async def test_the_event_loop_answers_while_the_model_works(serve: Serve, settings: Callable[..., Settings]) -> None:
    started, release = threading.Event(), threading.Event()

    class Long(Engine):
        def explain(self, *args: Any) -> Any:
            started.set()
            release.wait(10)
            return super().explain(*args)

    async with serve(Long(settings(model=None))) as client:
        working = asyncio.create_task(client.post("/v1/attributions", json=ONE | {"model": "classifier"}))
        await asyncio.to_thread(started.wait, 10)
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        release.set()
        assert (await working).status_code == 200


async def test_gradients_are_on_wherever_the_model_runs(serve: Serve) -> None:
    """The grad mode is a thread's own: what the caller's thread has switched off must not reach the model's."""
    with torch.no_grad():
        async with serve() as client:
            assert (await client.post("/v1/attributions", json=ONE)).status_code == 200


async def test_texts_that_break_others_do_not_break_the_service(serve: Serve) -> None:
    texts = [" ", "\u200b", "👩‍👩‍👧", "e\u0301", "你好", "שלום", "\x00", "</s>", "a" * 5000]
    body = {"examples": [{"input": text} for text in texts], "target": "predicted", "labels": LABELS}
    async with serve(max_models=3) as client:
        for model in ("classifier", "writer", "decoder"):
            answer = await client.post("/v1/attributions", json=body | {"model": model})
            assert answer.status_code == 200, answer.text
            for text, found in zip(texts, AttributionResponse.model_validate(answer.json()).results, strict=True):
                assert all(text[word.start : word.end] == word.text for word in found.words)
            raw = b'{"examples": [{"input": "a \\ud800 b"}], "labels": ["negative", "positive"], "model": "%s"}'
            answer = await client.post(
                "/v1/attributions", content=raw % model.encode(), headers={"content-type": "application/json"}
            )
            assert answer.status_code in (200, 400)
