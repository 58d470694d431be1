"""KServe's V1 protocol over HTTP, in-process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from services.teacher.desk import Desk
from understudy.errors import Overloaded
from understudy.schemas import Attribution, AttributionResponse, PredictionResponse
from understudy.testing import LABELS, SENTENCES

pytestmark = pytest.mark.anyio

Serve = Callable[..., Any]


async def test_predictions_are_the_native_ones(serve: Serve) -> None:
    inputs = [SENTENCES[0], {"id": "b", "input": SENTENCES[1]}]
    async with serve() as client:
        asked = await client.post("/v1/models/classifier:predict", json={"instances": inputs})
        native = await client.post("/v1/predictions", json={"model": "classifier", "inputs": inputs, "explain": False})
    assert asked.status_code == 200
    assert asked.json() == native.json()
    found = PredictionResponse.model_validate(asked.json())
    assert [one.id for one in found.predictions] == [None, "b"]
    assert all(one.label in LABELS and one.words is None for one in found.predictions)


async def test_explanations_are_the_native_attributions(serve: Serve) -> None:
    options = {"method": "integrated_gradients", "settings": {"n_steps": 4}, "target": "gold", "top_k": 2}
    examples = [{"id": "a", "input": SENTENCES[0], "output": "positive"}]
    async with serve() as client:
        native = await client.post("/v1/attributions", json={"model": "writer", "examples": examples} | options)
        beside = await client.post("/v1/models/writer:explain", json={"instances": examples} | options)
        within = await client.post("/v1/models/writer:explain", json={"inputs": examples, "parameters": options})
    answer = beside.json()
    assert Attribution.model_validate(answer["explanations"][0]).id == "a"
    assert _explained(answer) == _explained(within.json()) == AttributionResponse.model_validate(native.json()).results
    assert {key: answer[key] for key in ("model", "method", "target")} == {
        "model": "writer",
        "method": "integrated_gradients",
        "target": "gold",
    }
    assert answer["fingerprint"] == native.json()["fingerprint"]


def _explained(answer: dict[str, Any]) -> tuple[Attribution, ...]:
    return tuple(Attribution.model_validate(one) for one in answer["explanations"])


async def test_a_text_is_an_instance_of_explain_too(serve: Serve) -> None:
    async with serve() as client:
        answer = await client.post("/v1/models/classifier:explain", json={"instances": [SENTENCES[0]]})
    (found,) = _explained(answer.json())
    assert found.prediction in LABELS
    assert "".join(word.text for word in found.words) == "".join(
        SENTENCES[0][word.start : word.end] for word in found.words
    )


@pytest.mark.parametrize("write", [str, lambda name: quote(name, safe="")], ids=["plain", "encoded"])
async def test_a_name_may_hold_slashes_and_colons(serve: Serve, folder: Path, write: Callable[[str], str]) -> None:
    odd = folder.rename(folder.parent / "a:predict b")
    async with serve() as client:
        answer = await client.post(f"/v1/models/{write(str(odd))}:predict", json={"instances": ["yes"]})
    assert answer.status_code == 200
    assert answer.json()["model"] == str(odd)


@pytest.mark.parametrize(
    ("verb", "body", "param", "complaint"),
    [
        ("predict", {}, "instances", "this field is required"),
        ("predict", {"instances": []}, "instances", "at least 1"),
        ("predict", {"instances": "a text"}, "instances", "valid list"),
        ("explain", {"instances": ["a", 4]}, "instances[1]", "an instance is a text, or an object"),
        ("explain", {"instances": ["a", ""]}, "instances[1].input", "at least 1 character"),
        ("predict", {"instances": ["a", {"input": ""}]}, "instances[1].input", "at least 1 character"),
        ("predict", {"instances": [{"input": "a", "output": "b"}]}, "instances[0].output", "there is no such field"),
        ("explain", {"instances": ["a"], "methd": "saliency"}, "methd", "there is no such field"),
        ("explain", {"instances": ["a"], "method": "magic"}, "method", "choose from"),
        ("explain", {"instances": ["a"], "parameters": {"top_k": 0}}, "top_k", "greater than or equal to 1"),
        ("explain", {"instances": ["a"], "parameters": {"target": "label"}}, "parameters", "label names the answer"),
        ("explain", {"instances": ["a"], "top_k": 2, "parameters": {"top_k": 2}}, "top_k", "given twice"),
        ("explain", {"instances": ["a"], "model": "writer"}, "model", "there is no such field"),
        ("explain", {"instances": ["a"], "examples": [{"input": "b"}]}, "examples", "there is no such field"),
        ("predict", {"instances": ["a"], "inputs": ["b"]}, "inputs", "there is no such field"),
        (
            "explain",
            {"instances": ["a", {"input": "b", "choices": ["c", "c"]}]},
            "instances[1].choices",
            "instances[1].choices names the same answer twice",
        ),
    ],
)
async def test_a_wrong_field_is_named_as_it_was_sent(
    serve: Serve, verb: str, body: dict[str, Any], param: str, complaint: str
) -> None:
    async with serve() as client:
        answer = await client.post(f"/v1/models/classifier:{verb}", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert complaint in error["message"]
    assert "examples[" not in error["message"]


async def test_a_model_that_answers_is_ready_to_kserves_clients(serve: Serve) -> None:
    async with serve() as client:
        answer = (await client.get("/v1/models/classifier")).json()
    assert (answer["name"], answer["ready"], answer["id"]) == ("classifier", True, "classifier")


async def test_an_unknown_model_is_not_found(serve: Serve) -> None:
    async with serve(allowed_models=("classifier",)) as client:
        answer = await client.post("/v1/models/org/none:predict", json={"instances": ["a"]})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


async def test_too_many_instances_are_too_large_here_too(serve: Serve) -> None:
    async with serve(max_examples=1) as client:
        for verb in ("predict", "explain"):
            answer = await client.post(f"/v1/models/classifier:{verb}", json={"instances": ["a", "b"]})
            assert answer.status_code == 413
            assert answer.json()["error"]["param"] == "instances"


async def test_a_full_queue_keeps_its_status_and_retry_after(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any) -> None:
        raise Overloaded("the queue is full", retry_after=7.2)

    monkeypatch.setattr(Desk, "attribute", full)
    monkeypatch.setattr(Desk, "predict", full)
    async with serve() as client:
        for verb in ("predict", "explain"):
            answer = await client.post(f"/v1/models/classifier:{verb}", json={"instances": ["a"]})
            assert answer.status_code == 429
            assert answer.headers["retry-after"] == "7"
