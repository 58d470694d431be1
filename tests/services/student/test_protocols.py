"""KServe V1 and the Open Inference Protocol V2: the native answers in other clothes, and their errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

TEXTS = ["The plot is thin", "Naïve 🎬 – שלום"]


def texts(values: Any, name: str = "text") -> InferInput:
    given = np.array(values, dtype=object)
    return InferInput(name, list(given.shape), "BYTES").set_data_from_numpy(given)


@pytest.fixture
async def student(running: Any, store: Any, publish: Callable[..., str]) -> AsyncIterator[Any]:
    publish("one", "production")
    async with running(store) as service:
        await service.until_ready()
        yield service


# --- KServe V1 -------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_instances_get_the_native_answers(student: Any) -> None:
    body = {"instances": ["a dull film", {"id": "b", "input": "I love it"}]}
    native = (await student.ask(*body["instances"], top_k=2)).json()
    explained = await student.http.post("/v1/models/production:explain", json=body | {"parameters": {"top_k": 2}})
    assert explained.status_code == 200, explained.text
    assert explained.json()["explanations"] == native["predictions"]
    plain = (await student.http.post("/v1/models/production:predict", json=body)).json()
    assert [one["label"] for one in plain["predictions"]] == [one["label"] for one in native["predictions"]]
    assert [one["words"] for one in plain["predictions"]] == [None, None]
    facts = (await student.http.get("/v1/models/production")).json()
    assert facts["ready"] is True


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "instances"),
        ({"instances": ["a", " "]}, "instances[1]"),
        ({"instances": ["a", 3]}, "instances[1]"),
        ({"instances": ["a"], "top_k": 0}, "top_k"),
        ({"instances": ["a"], "top_k": 1, "parameters": {"top_k": 2}}, "top_k"),
        ({"instances": [{"input": "a", "choices": ["x", "y"]}]}, "instances[0].choices"),
    ],
)
async def test_complaints_name_the_instance(student: Any, body: dict[str, Any], param: str) -> None:
    answer = await student.http.post("/v1/models/production:explain", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


# --- Open Inference Protocol V2 --------------------------------------------------------------------------------------


def test_what_the_stock_client_asks(address: str) -> None:
    with InferenceServerClient(address) as client, httpx.Client(base_url=f"http://{address}") as native:
        artifact = native.get("/v1/models/production").json()["id"]
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("production", artifact)
        assert not client.is_model_ready("writer")
        assert native.get("/v2/models/writer/ready").status_code == 503
        assert native.get("/v2/models/nothing/ready").status_code == 404
        assert native.put("/v1/models/production:predict").headers["allow"] == "POST"
        assert client.get_server_metadata()["name"] == "understudy-student"
        assert client.get_model_metadata("production")["versions"] == [artifact]
        assert [one["name"] for one in client.get_model_repository_index()] == [artifact]
        expected = native.post("/v1/predictions", json={"inputs": TEXTS, "top_k": 2}).json()["predictions"]
        found = client.infer("production", [texts(TEXTS)], parameters={"top_k": 2}, request_id="seven")
        assert (found.get_response()["id"], found.get_response()["model_version"]) == ("seven", artifact)
        assert [label.decode() for label in found.as_numpy("label")] == [one["label"] for one in expected]
        assert found.as_numpy("probability").tolist() == pytest.approx([one["probability"] for one in expected])
        assert [json.loads(row) for row in found.as_numpy("words")] == [one["words"] for one in expected]
        assert [json.loads(row) for row in found.as_numpy("prediction")] == expected
        label = InferRequestedOutput("label", binary_data=False)
        alone = client.infer("production", [texts(TEXTS)], outputs=[label], model_version=artifact)
        assert [one["name"] for one in alone.get_response()["outputs"]] == ["label"]
        chosen = client.infer("writer", [texts(["which?"]), texts([["yes", "no"]], "choices")])
        assert chosen.as_numpy("label")[0] in (b"yes", b"no")
        with pytest.raises(InferenceServerException, match="its one version is"):
            client.infer("production", [texts(TEXTS)], model_version="model-" + "0" * 24)
        with pytest.raises(InferenceServerException, match=r"text\[1\] is blank"):
            client.infer("production", [texts(["a", " "])])
        with pytest.raises(InferenceServerException, match="no answer after 1e-06 s"):
            client.infer("production", [texts(TEXTS)], timeout=1)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": []}, "the input tensor 'text' is missing"),
        ({"parameters": {"topk": 3}}, "unknown parameter 'topk'"),
        ({"parameters": {"top_k": "many"}}, "top_k"),
        ({"parameters": {"timeout": -5}}, "microseconds"),
        ({"parameters": {"labels": "["}}, "not JSON"),
        ({"parameters": {"explain": False}, "outputs": [{"name": "words"}]}, "words are wanted"),
        ({"outputs": [{"name": "lable"}]}, "unknown output 'lable'"),
        ({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [0], "data": []}]}, "it is empty"),
        ({"inputs": [{"name": "text", "datatype": "FP32", "shape": [1], "data": [1.0]}]}, "texts are sent as BYTES"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_an_error_is_one_string_that_names_the_tensor(student: Any, change: Any, words: str) -> None:
    good = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a film"]}]}
    answer = await student.http.post("/v2/models/production/infer", json=good | change)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]
