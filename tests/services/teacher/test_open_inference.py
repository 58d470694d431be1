"""The Open Inference Protocol V2 over HTTP: the stock client against a real server, and everything it never sends."""

from __future__ import annotations

import gzip
import json
import random
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from stand.listening import Listening
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from services.teacher.app import create_app
from services.teacher.desk import Desk
from services.teacher.engine import Engine, Place
from services.teacher.routes.open_inference import HEALTH
from services.teacher.routes.tensors import said_of_tensors
from services.teacher.settings import Settings
from understudy.artifacts import ArtifactStore
from understudy.errors import Overloaded
from understudy.schemas import Attribution, PredictionRequest, PredictionResponse
from understudy.string_errors import StringErrors
from understudy.testing import LABELS, SENTENCES, tiny_classifier

Serve = Callable[..., Any]

TEXTS = [*SENTENCES[:3], "Naïve 🎬 – שלום"]


@pytest.fixture(scope="module")
def address(published: ArtifactStore) -> Iterator[str]:
    """`host:port` of a teacher in a thread of its own, ready, with the model `classifier`."""
    app = create_app(Settings(artifacts=published.root, model="classifier", device="cpu", max_models=3))
    with Listening(app) as listening:
        yield listening.until_ready().address


@pytest.fixture
def client(address: str) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(address) as stock:
        yield stock


@pytest.fixture
def native(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{address}") as plain:
        yield plain


def texts(values: Any, name: str = "text", *, binary: bool = True) -> InferInput:
    given = np.array(values, dtype=object)
    return InferInput(name, list(given.shape), "BYTES").set_data_from_numpy(given, binary_data=binary)


def strings(result: Any, name: str) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else value for value in result.as_numpy(name)]


# --- what the stock client asks ---------------------------------------------------------------------------------------


def test_the_server_says_what_it_is(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    facts = client.get_server_metadata()
    assert facts["name"] == "understudy-teacher"
    assert facts["extensions"] == ["binary_tensor_data", "model_repository"]
    assert facts["version"]


def test_a_model_says_what_it_reads_and_gives(client: InferenceServerClient, native: httpx.Client) -> None:
    facts = client.get_model_metadata("classifier")
    fingerprint = native.get("/v1/models/classifier").json()["fingerprint"]
    assert (facts["name"], facts["versions"], facts["platform"]) == ("classifier", [fingerprint], "pytorch_safetensors")
    assert {"name": "text", "datatype": "BYTES", "shape": [-1]} in facts["inputs"]
    assert [(one["name"], one["datatype"]) for one in facts["outputs"]] == [
        ("label", "BYTES"),
        ("probability", "FP32"),
        ("words", "BYTES"),
        ("attributions", "BYTES"),
    ]
    assert client.get_model_metadata("classifier", fingerprint) == facts
    with pytest.raises(InferenceServerException, match=f"its one version is '{fingerprint}'"):
        client.get_model_metadata("classifier", "2")


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_all_outputs_are_the_native_answer(client: InferenceServerClient, native: httpx.Client, binary: bool) -> None:
    named = [InferRequestedOutput(name, binary) for name in ("label", "probability", "words", "attributions")]
    result = client.infer(
        "classifier",
        [texts(TEXTS, binary=binary)],
        outputs=None if binary else named,
        parameters={"method": "integrated_gradients", "settings": '{"n_steps": 4}', "top_k": 2},
        request_id="seven",
    )
    body = {
        "model": "classifier",
        "examples": [{"input": text} for text in TEXTS],
        "method": "integrated_gradients",
        "settings": {"n_steps": 4},
        "top_k": 2,
    }
    answer = native.post("/v1/attributions", json=body).json()
    expected = [Attribution.model_validate(one) for one in answer["results"]]
    assert [Attribution.model_validate_json(one) for one in strings(result, "attributions")] == expected
    assert strings(result, "label") == [one.prediction for one in expected]
    assert result.as_numpy("probability").tolist() == pytest.approx([one.probability for one in expected])
    assert [json.loads(one) for one in strings(result, "words")] == [
        [word.model_dump() for word in one.rationale] for one in expected
    ]
    told = result.get_response()
    assert (told["id"], told["model_name"], told["model_version"]) == ("seven", "classifier", answer["fingerprint"])
    assert (told["parameters"]["method"], told["parameters"]["target"]) == ("integrated_gradients", "predicted")
    assert json.loads(told["parameters"]["settings"])["n_steps"] == 4
    assert all(("data" in one) != binary for one in told["outputs"])


def test_only_the_outputs_that_are_named_come_back(client: InferenceServerClient, native: httpx.Client) -> None:
    wanted = [InferRequestedOutput("probability"), InferRequestedOutput("label", binary_data=False)]
    result = client.infer("classifier", [texts(np.array(TEXTS, dtype=object).reshape(-1, 1))], outputs=wanted)
    answer = native.post("/v1/predictions", json={"inputs": TEXTS, "explain": False}).json()["predictions"]
    assert {one["name"] for one in result.get_response()["outputs"]} == {"label", "probability"}
    assert strings(result, "label") == [one["label"] for one in answer]
    assert result.as_numpy("probability").dtype == np.float32
    assert result.as_numpy("probability").tolist() == pytest.approx([one["probability"] for one in answer])


def test_answers_alone_cost_no_explanation(client: InferenceServerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    predict, asked = Desk.predict, []

    async def noted(desk: Desk, request: PredictionRequest) -> PredictionResponse:
        asked.append(request.explain)
        return await predict(desk, request)

    monkeypatch.setattr(Desk, "predict", noted)
    for options in ({"outputs": [InferRequestedOutput("label")]}, {"parameters": {"explain": False}}):
        result = client.infer("classifier", [texts(["a film"])], **options)
        assert strings(result, "label")[0] in LABELS
        assert result.as_numpy("words") is None
    assert asked == [False, False]


def test_a_target_is_explained_and_compared(client: InferenceServerClient) -> None:
    inputs = [texts(["a film", "a bore"]), texts(["negative", "neutral"], "target"), texts(["positive"] * 2, "against")]
    explained = client.infer("classifier", inputs, outputs=[InferRequestedOutput("attributions")])
    found = [Attribution.model_validate_json(one) for one in strings(explained, "attributions")]
    assert [(one.explained, one.against) for one in found] == [("negative", "positive"), ("neutral", "positive")]
    assert explained.as_numpy("label") is None
    assert explained.get_response()["parameters"]["target"] == "gold"


def test_choices_are_rows_of_texts(client: InferenceServerClient) -> None:
    inputs = [texts(["a film", "a bore"]), texts([["yes", "no"], ["one", "two"]], "choices")]
    labels = strings(client.infer("writer", inputs, outputs=[InferRequestedOutput("label")]), "label")
    assert labels[0] in ("yes", "no")
    assert labels[1] in ("one", "two")


def test_a_map_without_the_models_own_answer(client: InferenceServerClient) -> None:
    inputs = [texts(["a film"]), texts(["neutral"], "target")]
    result = client.infer("classifier", inputs, parameters={"predict": False})
    assert {one["name"] for one in result.get_response()["outputs"]} == {"words", "attributions"}


@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_packed_requests_are_answered(client: InferenceServerClient, packed: str) -> None:
    options = {"request_compression_algorithm": packed, "response_compression_algorithm": packed}
    result = client.infer("classifier", [texts(TEXTS)], outputs=[InferRequestedOutput("label")], **options)
    assert len(strings(result, "label")) == len(TEXTS)


def test_models_are_loaded_listed_and_put_out_by_names_with_slashes(
    client: InferenceServerClient, tmp_path: Path
) -> None:
    name = str(tiny_classifier(tmp_path / "models" / "a b"))
    assert not client.is_model_ready(name)
    client.load_model(name)
    assert client.is_model_ready(name)
    (row,) = [one for one in client.get_model_repository_index() if one["name"] == name]
    assert row["state"] == "READY"
    assert client.is_model_ready(name, row["version"])
    assert not client.is_model_ready(name, "1")
    result = client.infer(name, [texts(["a film"])], model_version=row["version"])
    assert result.get_response()["model_version"] == row["version"]
    client.unload_model(name)
    assert not client.is_model_ready(name)
    assert name not in [one["name"] for one in client.get_model_repository_index()]
    with pytest.raises(InferenceServerException, match="is not in memory") as caught:
        client.unload_model(name)
    assert caught.value.status() == "404"


@pytest.mark.parametrize(
    ("status", "complaint", "inputs", "options"),
    [
        ("404", "no version '2'", [texts(["a"])], {"model_version": "2"}),
        ("400", "input tensor 'text' is missing", [texts(["a"], "target")], {}),
        ("400", "unknown input tensor 'txt'", [texts(["a"]), texts(["a"], "txt")], {}),
        ("400", "tensor 'text': shape is [1, 2]", [texts([["a", "b"]])], {}),
        ("400", "tensor 'text': it is empty", [texts(np.zeros([0], dtype=object))], {}),
        ("400", "tensor 'target': it has 1 rows, and 'text' has 2", [texts(["a", "b"]), texts(["c"], "target")], {}),
        (
            "400",
            "tensor 'text': datatype is FP32",
            [InferInput("text", [1], "FP32").set_data_from_numpy(np.ones(1, np.float32))],
            {},
        ),
        ("400", "text[1]: String should have at least 1 character", [texts(["a", ""])], {}),
        ("400", "target[0]: String", [texts(["a"]), texts([""], "target")], {}),
        ("400", "choices[0] names the same answer twice", [texts(["a"]), texts([["b", "b"]], "choices")], {}),
        ("400", "unknown method 'magic'", [texts(["a"])], {"parameters": {"method": "magic"}}),
        ("400", "unknown parameter 'methd'", [texts(["a"])], {"parameters": {"methd": "saliency"}}),
        ("400", "unknown parameter 'priority'", [texts(["a"])], {"priority": 2}),
        ("400", "settings is a text, and not JSON", [texts(["a"])], {"parameters": {"settings": "{"}}),
        ("400", "labels: Tuple should have at least 2", [texts(["a"])], {"parameters": {"labels": '["b"]'}}),
        ("400", "parameters: label names the answer", [texts(["a"])], {"parameters": {"target": "label"}}),
        ("400", "explain should be true or false", [texts(["a"])], {"parameters": {"explain": "no"}}),
        ("400", "unknown output 'logits'", [texts(["a"])], {"outputs": [InferRequestedOutput("logits")]}),
        (
            "400",
            "'label': the extension behind 'classification'",
            [texts(["a"])],
            {"outputs": [InferRequestedOutput("label", class_count=2)]},
        ),
        (
            "400",
            "explain is false, but words",
            [texts(["a"])],
            {"outputs": [InferRequestedOutput("words")], "parameters": {"explain": False}},
        ),
        (
            "400",
            "parameter 'method' is about an explanation",
            [texts(["a"])],
            {"outputs": [InferRequestedOutput("label")], "parameters": {"method": "saliency"}},
        ),
        (
            "400",
            "tensor 'target' is about an explanation",
            [texts(["a"]), texts(["b"], "target")],
            {"parameters": {"explain": False}},
        ),
        (
            "400",
            "predict is false, but label",
            [texts(["a"]), texts(["neutral"], "target")],
            {
                "outputs": [InferRequestedOutput("label"), InferRequestedOutput("words")],
                "parameters": {"predict": False},
            },
        ),
    ],
)
def test_the_stock_client_reads_what_was_wrong(
    client: InferenceServerClient, status: str, complaint: str, inputs: list[InferInput], options: dict[str, Any]
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("classifier", inputs, **options)
    assert caught.value.status() == status
    assert complaint in caught.value.message()
    assert "examples[" not in caught.value.message()


def test_load_takes_no_configuration(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="a model is loaded as it was published"):
        client.load_model("classifier", config="{}")


# --- what the documentation says --------------------------------------------------------------------------------------


PAGE = (Path(__file__).parents[3] / "docs" / "protocols.md").read_text()
_, *SHELL = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)  # the first one starts the service
(SCRIPT,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def _of_this_test(example: str, address: str, folder: Path) -> str:
    return example.replace("localhost:8001", address).replace("/tmp/tiny", str(folder))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("example", SHELL, ids=["native", "kserve", "open inference"])
def test_every_shell_example_of_the_page_is_answered(address: str, folder: Path, example: str) -> None:
    asked = _of_this_test(example, address, folder)
    done = subprocess.run(["bash", "-ec", asked], capture_output=True, text=True, timeout=60, check=True)
    decoder, answers, at = json.JSONDecoder(), [], 0
    while at < len(done.stdout):
        answer, at = decoder.raw_decode(done.stdout, at)
        answers.append(answer)
    assert len(answers) == asked.count("curl ")
    assert all("error" not in answer for answer in answers), answers


def test_the_python_example_of_the_page_prints_answers(
    address: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(_of_this_test(SCRIPT, address, folder), "protocols.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("yes [", "no [")) for line in printed) == 2


# --- what other clients send ------------------------------------------------------------------------------------------


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


ONE = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a film"]}]}
INFER = "/v2/models/classifier/infer"


@pytest.mark.anyio
async def test_errors_from_everywhere_are_strings(serve: Serve) -> None:
    async with serve(max_body_bytes=500, allowed_models=("classifier",)) as http:
        answers = {
            "404 no such address": await http.get("/v2/nothing"),
            "405 Method": await http.delete("/v2/health/live"),
            "413 the body is larger": await http.post(INFER, content=b"x" * 501),
            "413 the body unpacks": await http.post(
                INFER, content=gzip.compress(b" " * 501), headers={"Content-Encoding": "gzip"}
            ),
            "415 content encoding 'br'": await http.post(INFER, content=b"x", headers={"Content-Encoding": "br"}),
            "404 no model 'org/none' is offered": await http.post("/v2/models/org/none/infer", json=ONE),
            "404 no model 'org/none' is": await http.get("/v2/models/org/none/ready"),
            "400 the request is not valid JSON": await http.post(INFER, content=b"{"),
            "400 Inference-Header-Content-Length is": await http.post(
                INFER, content=b"{}", headers={"Inference-Header-Content-Length": "9"}
            ),
            "400 the body: ": await http.post("/v2/repository/index", content=b"["),
            "400 parameters: Input": await http.post("/v2/repository/models/x/load", json={"parameters": 4}),
        }
    for expected, answer in answers.items():
        status, _, begins = expected.partition(" ")
        assert answer.status_code == int(status), expected
        assert answer.json()["error"].startswith(begins)
        assert set(answer.json()) == {"error"}
        assert answer.headers["x-request-id"]


@pytest.mark.anyio
async def test_probes_need_no_key_and_a_missing_key_is_a_string(serve: Serve) -> None:
    async with serve(api_keys=("open sesame",), model=None) as http:
        assert [(await http.get(path)).status_code for path in HEALTH] == [200, 200]
        answer = await http.get("/v2")
        assert (answer.status_code, list(answer.json())) == (401, ["error"])
        assert answer.headers["www-authenticate"] == "Bearer"
        assert (await http.get("/v2", headers={"Authorization": "Bearer open sesame"})).status_code == 200


@pytest.mark.anyio
async def test_a_defect_is_a_string_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(Desk, "attribute", broken)
    async with serve() as http:
        with capture_logs() as logged:
            answer = await http.post(INFER, json=ONE)
    assert answer.status_code == 500
    assert "defect" in [event["event"] for event in logged]
    assert "an unexpected error" in answer.json()["error"]
    assert "secret" not in answer.text


@pytest.mark.anyio
async def test_limits_and_a_full_queue_keep_their_status_and_retry_after(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}]}
    answers_alone = {"outputs": [{"name": "label"}]}

    async def full(*_: Any) -> None:
        raise Overloaded("the queue is full", retry_after=7.2)

    async with serve(max_examples=1) as http:
        for options in ({}, answers_alone):
            assert (await http.post(INFER, json=two | options)).status_code == 413
        monkeypatch.setattr(Desk, "attribute", full)
        monkeypatch.setattr(Desk, "predict", full)
        for options in ({}, answers_alone):
            answer = await http.post(INFER, json=ONE | options)
            assert (answer.status_code, answer.json()) == (429, {"error": "the queue is full"})
            assert answer.headers["retry-after"] == "7"


@pytest.mark.anyio
async def test_a_model_that_is_not_in_memory_is_not_ready_and_stays_out(serve: Serve) -> None:
    async with serve(model=None) as http:
        assert (await http.get("/v2/health/ready")).json() == {"ready": True}
        for path in ("/v2/models/writer/ready", "/v2/models/writer/versions/1/ready"):
            answer = await http.get(path)
            assert (answer.status_code, list(answer.json())) == (503, ["error"])
        assert (await http.post("/v2/repository/index")).json() == []
        assert (await http.post("/v2/repository/models/writer/load")).json() == {"name": "writer", "load": True}
        assert (await http.get("/v2/models/writer/ready")).json() == {"name": "writer", "ready": True}
        assert len((await http.post("/v2/repository/index", json={"ready": True})).json()) == 1
        assert (await http.post("/v2/repository/models/writer/unload")).json() == {"name": "writer", "unload": True}


@pytest.fixture
def versions(tmp_path: Path) -> ArtifactStore:
    """A store with two models under the aliases `best` and `next`."""
    store = ArtifactStore(tmp_path / "artifacts")
    for seed, alias in enumerate(("best", "next")):
        store.set_alias(alias, store.publish("model", tiny_classifier(tmp_path / alias, seed=seed)).id)
    return store


@pytest.mark.anyio
async def test_an_alias_that_moved_to_a_model_that_is_not_in_memory_is_not_ready(
    serve: Serve, versions: ArtifactStore
) -> None:
    async with serve(artifacts=versions.root, model=None) as http:
        (version,) = (await http.get("/v2/models/best")).json()["versions"]
        paths = ("/v2/models/best/ready", f"/v2/models/best/versions/{version}/ready")
        assert [(await http.get(path)).status_code for path in paths] == [200, 200]
        versions.set_alias("best", versions.resolve("next"))
        assert [(await http.get(path)).status_code for path in paths] == [503, 503]
        assert [one["version"] for one in (await http.post("/v2/repository/index")).json()] == [version]


@pytest.mark.anyio
@pytest.mark.parametrize("outputs", [["label"], ["label", "words"]], ids=" and ".join)
async def test_no_other_version_answers_for_the_one_that_is_named(
    serve: Serve, versions: ArtifactStore, settings: Callable[..., Settings], outputs: list[str]
) -> None:
    moves: list[str] = []

    class Moving(Engine):
        """Where somebody moves the alias just before it is looked up."""

        def find(self, ref: str) -> Place:
            while moves:
                versions.set_alias("best", moves.pop())
            return super().find(ref)

    asked = ONE | {"outputs": [{"name": name} for name in outputs]}
    async with serve(Moving(settings(artifacts=versions.root)), artifacts=versions.root, model=None) as http:
        (version,) = (await http.get("/v2/models/best")).json()["versions"]
        path = f"/v2/models/best/versions/{version}/infer"
        assert (await http.post(path, json=asked)).status_code == 200
        moves.append(versions.resolve("next"))
        answer = await http.post(path, json=asked)
    assert answer.status_code == 404
    assert f"model 'best' has no version '{version}'" in answer.json()["error"]


@pytest.mark.anyio
async def test_a_service_that_cannot_load_its_model_is_live_and_not_ready(serve: Serve, tmp_path: Path) -> None:
    async with serve(model=str(tmp_path / "none")) as http:
        assert (await http.get("/v2/health/live")).json() == {"live": True}
        answer = await http.get("/v2/health/ready")
    assert answer.status_code == 503
    assert str(tmp_path / "none") in answer.json()["error"]


@pytest.mark.anyio
async def test_an_error_that_is_sent_in_parts_is_one_string() -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": [(b"content-length", b"47")]})
        await send({"type": "http.response.body", "body": b'{"error": {"mess', "more_body": True})
        await send({"type": "http.response.body", "body": b'age": "no: inputs[2].choices"}}'})

    transport = httpx.ASGITransport(app=StringErrors(app, said=said_of_tensors))
    async with httpx.AsyncClient(transport=transport, base_url="http://teacher") as http:
        answer = await http.get("/v2/models")
        assert (answer.status_code, answer.json()) == (400, {"error": "no: choices[2]"})
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert (await http.get("/v1/models")).json() == {"error": {"message": "no: inputs[2].choices"}}


@pytest.mark.anyio
async def test_an_encoded_name_is_the_same_name(serve: Serve, folder: Path) -> None:
    encoded = str(folder).replace("/", "%2F")
    async with serve() as http:
        answer = await http.post(f"/v2/models/{encoded}/infer", json=ONE | {"outputs": [{"name": "label"}]})
    assert answer.json()["model_name"] == str(folder)


@pytest.mark.anyio
async def test_broken_bodies_are_never_a_defect(serve: Serve) -> None:
    section = b"".join(struct.pack("<I", len(text)) + text for text in (b"a film", "Naïve 🎬".encode()))
    described = {
        "name": "text",
        "datatype": "BYTES",
        "shape": [2, 1],
        "parameters": {"binary_data_size": len(section)},
    }
    head = json.dumps(
        {
            "inputs": [described],
            "outputs": [{"name": "label"}],
            "parameters": {"labels": '["neutral", "positive"]', "template": "Say {input}", "binary_data_output": True},
        }
    ).encode()
    chance = random.Random(11)
    seen: dict[int, int] = {}
    async with serve() as http:
        for _ in range(300):
            parts = [bytearray(head), bytearray(section)]
            part = parts[chance.choice([0, 1])]
            for _ in range(chance.choice([1, 1, 1, 3])):
                at = chance.randrange(len(part))
                kind = chance.randrange(3)
                if kind == 0:
                    part[at] = chance.randrange(32, 127)
                elif kind == 1:
                    part[at:at] = chance.choice([b"\\ud800", b"-", b"9" * 20, b"[", b'"', b"\0"])
                else:
                    del part[at : at + chance.randint(1, 8)]
            sent = b"".join(parts)
            declared = chance.choice([len(parts[0])] * 6 + [len(head), len(sent)])
            length = {"Inference-Header-Content-Length": str(declared)}
            answer = await http.post(INFER, content=sent, headers=length)
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
            assert answer.status_code in (200, 400, 422), (answer.text, sent)
            assert answer.status_code == 200 or isinstance(answer.json()["error"], str)
    assert seen[200] > 20
    assert seen[400] > 100
