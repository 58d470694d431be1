"""What is tried on servers of models, tried on this one over real HTTP: names, weights, bodies and doors.

After the attacks on TorchServe (CVE-2023-43654), MLflow (CVE-2023-1177, CVE-2024-1560), BentoML (CVE-2024-2912), vLLM
(CVE-2025-62164) and torch and transformers (CVE-2025-32434, CVE-2026-4372).
"""

from __future__ import annotations

import http.client
import json
import os
import pickle
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from stand.listening import Listening

from services.student.app import create_app
from services.student.settings import Settings

LIMIT = 200_000
TRAVERSALS = (
    "../trap",
    "..%2ftrap",
    "..%2Ftrap",
    "%2e%2e/trap",
    "%2e%2e%2ftrap",
    "%252e%252e%252ftrap",
    "..%255ctrap",
    "..\\trap",
    "..%5ctrap",
    "%c0%ae%c0%ae%2ftrap",
    "%uff0e%uff0e%2ftrap",
    "%e2%80%a5%2ftrap",
    "..%00%2ftrap",
    "trap%00.json",
    "....%2f%2ftrap",
    "aliases%2f..%2f..%2ftrap",
    "%2fetc%2fpasswd",
    "file:%2f%2f%2fetc%2fpasswd",
    "http:%2f%2f169.254.169.254%2flatest",
    "model-000000000000000000000000%2f..%2f..%2ftrap",
    "~root",
    "%0d%0aset-cookie:%20a=b",
    "C:%5cwindows%5cwin.ini",
)
NAMES = ("../trap", "..\\trap", "%2e%2e%2ftrap", "/etc/passwd", "file:///etc/passwd", "trap\x00", "\u2025/trap", ".")
POSTS: dict[str, dict[str, Any]] = {
    "/v1/predictions": {"inputs": ["a dull film"]},
    "/v1/completions": {"prompt": "a dull film"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a dull film"}]},
    "/v1/models/production:predict": {"instances": ["a dull film"]},
    "/v1/models/production:explain": {"instances": ["a dull film"]},
    "/v2/models/production/infer": {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a dull film"]}]
    },
}


@pytest.fixture
def server(store: Any, publish: Callable[..., str], tmp_path: Path) -> Iterator[Listening]:
    """A student whose store has a trap beside it: an alias' file that only a name with a way out of it leads to."""
    artifact = publish("one", "production")
    for place in (tmp_path, Path(store.root)):
        (place / "trap.json").write_text(json.dumps({"artifact": artifact, "set_at": 0}))
        (place / "trap").mkdir()
        (place / "trap" / "manifest.json").write_text("{}")
    settings = Settings(
        artifacts=store.root, device="cpu", max_body_bytes=LIMIT, refresh_seconds=0.05, retry_seconds=0.1
    )
    with Listening(create_app(settings, store)) as listening:
        yield listening.until_ready()


def call(server: Listening, method: str, target: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    """A request whose target is sent as it is, byte for byte."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection._validate_path = lambda _: None  # type: ignore[attr-defined]
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        sent = {"content-type": "application/json", "content-length": str(len(body))} | headers
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def raw(server: Listening, request: bytes) -> bytes:
    """What comes back for bytes that need not be HTTP."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as opened:
        opened.sendall(request)
        found = b""
        while part := opened.recv(65536):
            found += part
        return found


def still_serves(server: Listening) -> None:
    status, body = call(server, "POST", "/v1/predictions", json.dumps({"inputs": ["a dull film"]}).encode())
    assert status == 200, body


# --- names -----------------------------------------------------------------------------------------------------------


def test_no_name_in_an_address_leads_out_of_the_store(server: Listening) -> None:
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    named = [(path, method) for path, methods in paths.items() if "{model}" in path for method in methods]
    assert len(named) >= 8
    for path, method in named:
        body = next((json.dumps(good).encode() for end, good in POSTS.items() if path.endswith(end[-6:])), b"")
        for name in TRAVERSALS:
            target = path.replace("{model}", name).replace("{version}", "model-" + "0" * 24)
            status, answer = call(server, method.upper(), target, body)
            assert 400 <= status < 500, (method, target, status, answer)
            assert b"root:" not in answer
            assert b"Traceback" not in answer
    for name in TRAVERSALS:  # a version is a name too
        status, _ = call(server, "GET", f"/v2/models/production/versions/{name}")
        assert 400 <= status < 500, name
    still_serves(server)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_name_in_a_body_leads_out_of_the_store(server: Listening, name: str) -> None:
    for path in ("/v1/predictions", "/v1/completions", "/v1/chat/completions"):
        status, answer = call(server, "POST", path, json.dumps(POSTS[path] | {"model": name}).encode())
        assert (status, json.loads(answer)["error"]["param"]) == (404, "model"), answer


def test_a_link_out_of_the_store_is_no_model(server: Listening, store: Any, tmp_path: Path) -> None:
    outside, name = tmp_path / "outside", "model-" + "a" * 24
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    manifest = {"id": name, "kind": "model", "files": {"../secret": "0" * 64}, "bytes": 1, "meta": {}, "created_at": 0}
    (outside / "manifest.json").write_text(json.dumps(manifest))
    (Path(store.root) / name).symlink_to(outside)
    status, answer = call(server, "GET", f"/v1/models/{name}")
    assert status == 500
    assert b"names a path outside it" in answer
    still_serves(server)


# --- weights ---------------------------------------------------------------------------------------------------------


class _Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.mark),))


def _pickle(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Payload(mark)))


def _pickle_by_another_name(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(_Payload(mark)))


def _configured(folder: Path, **keys: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def _remote_code(folder: Path, mark: Path) -> None:
    (folder / "mine.py").write_text(f"import os; os.mkdir({str(mark)!r})\n")
    maps = {"AutoConfig": "mine.Mine", "AutoModel": "mine.Mine", "AutoTokenizer": ["mine.Mine", None]}
    _configured(folder, model_type="mine", auto_map=maps)


def _tokenizer_code(folder: Path, mark: Path) -> None:
    (folder / "mine.py").write_text(f"import os; os.mkdir({str(mark)!r})\n")
    path = folder / "tokenizer_config.json"
    changed = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    (folder / "tokenizer.json").unlink()


def _long_header(folder: Path, _: Path) -> None:
    (folder / "model.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")


def _header_past_the_end(folder: Path, _: Path) -> None:
    (folder / "model.safetensors").write_bytes((90_000_000).to_bytes(8, "little") + b"{}")


def _tensor_past_the_end(folder: Path, _: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def _deep_header(folder: Path, _: Path) -> None:
    header = b'{"w":' * 100_000
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def _deep_configuration(folder: Path, _: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 100_000)


def _huge_layers(folder: Path, _: Path) -> None:
    _configured(folder, encoder={"model_type": "bert", "num_hidden_layers": 1, "hidden_size": 1 << 40})


@pytest.mark.parametrize("budget", [0, 10**9])
@pytest.mark.parametrize(
    "poison",
    [
        _pickle,
        _pickle_by_another_name,
        _remote_code,
        _tokenizer_code,
        _long_header,
        _header_past_the_end,
        _tensor_past_the_end,
        _deep_header,
        _deep_configuration,
        _huge_layers,
    ],
    ids=lambda poison: str(getattr(poison, "__name__", poison)),
)
def test_a_poisoned_model_runs_nothing_and_leaves_the_old_one_serving(
    store: Any, publish: Callable[..., str], folders: dict[str, Path], tmp_path: Path, poison: Any, budget: int
) -> None:
    one, folder, mark = publish("one", "production"), tmp_path / "poisoned", tmp_path / "it ran"
    shutil.copytree(folders["two"], folder)
    poison(folder, mark)
    settings = Settings(
        artifacts=store.root, device="cpu", refresh_seconds=0.05, retry_seconds=60, max_model_bytes=budget
    )
    with Listening(create_app(settings, store)) as listening:
        listening.until_ready()
        store.set_alias("production", store.publish("model", folder).id)
        end = time.monotonic() + 60
        while not (said := httpx.get(f"{listening.url}/readyz").json()["problems"].get("production")):
            assert time.monotonic() < end
            time.sleep(0.02)
        found = httpx.post(f"{listening.url}/v1/predictions", json={"inputs": ["a dull film"]})
        assert (found.status_code, found.json()["artifact"]) == (200, one)
    assert not mark.exists()
    assert str(tmp_path) not in said, "where models lie on this machine is nobody's business"


def test_a_configuration_that_names_attention_code_is_served_without_it(
    store: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder, mark = tmp_path / "poisoned", tmp_path / "it ran"
    shutil.copytree(folders["two"], folder)
    (folder / "mine.py").write_text(f"import os; os.mkdir({str(mark)!r})\n")
    _configured(folder, _attn_implementation="someone/kernel:mine", _attn_implementation_internal="someone/kernel")
    store.set_alias("production", store.publish("model", folder).id)
    with Listening(create_app(Settings(artifacts=store.root, device="cpu"), store)) as listening:
        still_serves(listening.until_ready())
    assert not mark.exists()


# --- bodies ----------------------------------------------------------------------------------------------------------


def _spoilt(path: str) -> Iterator[bytes]:
    good = json.dumps(POSTS[path])
    text = json.dumps("a dull film")
    yield good.replace(text, "[" * 50_000 + "]" * 50_000).encode()
    yield good.replace(text, '{"a":' * 20_000 + "1" + "}" * 20_000).encode()
    yield good.replace(text, "9" * 100_000).encode()
    yield good.replace(text, "1e999999").encode()
    yield good.replace(text, '"\\ud800"').encode()
    yield good.replace(text, '"\\udfff\\ud800"').encode()
    yield good.replace(text, '"a\\u0000b').encode()
    yield b"\xed\xa0\x80" + good.encode()
    yield good.replace(text, '"\xff"').encode("latin-1")
    yield pickle.dumps({"inputs": ["a dull film"]})
    yield b"\x1f\x8b" + good.encode()


@pytest.mark.parametrize("path", POSTS)
def test_no_body_is_a_defect(server: Listening, path: str) -> None:
    for body in _spoilt(path):
        status, answer = call(server, "POST", path, body)
        assert 400 <= status < 500, (body[:200], answer[:300])
        error = json.loads(answer)["error"]
        assert len(error if isinstance(error, str) else error["message"]) < 2000, "an answer repeats no body"
    wrong = {
        "application/x-python-pickle",
        "application/vnd.bentoml+pickle",
        "multipart/form-data; boundary=a",
        "",
        "*",
    }
    for kind in wrong - ({"application/octet-stream"} if "/v2" in path else set()):
        status, answer = call(server, "POST", path, pickle.dumps(POSTS[path]), **{"content-type": kind})
        assert 400 <= status < 500, (kind, answer)
    still_serves(server)


@pytest.mark.parametrize("path", POSTS)
def test_a_body_without_a_length_is_read_no_further_than_allowed(server: Listening, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\n".encode()
    good = json.dumps(POSTS[path]).encode()
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    assert b" 200 " in raw(server, chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(good), good)).split(b"\r\n")[0]
    flood = b"%x\r\n%s\r\n" % (50_000, b" " * 50_000)
    assert b" 413 " in raw(server, chunked + flood * 5 + b"0\r\n\r\n").split(b"\r\n")[0]
    assert b" 400 " in raw(server, head + b"\r\n").split(b"\r\n")[0]
    for length in (b"-1", b"1e3", b"12, 13", b"0x10"):
        first = raw(server, head + b"Content-Length: " + length + b"\r\n\r\n" + good).split(b"\r\n")[0]
        assert b" 400 " in first, (length, first)
    both = head + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/models HTTP/1.1\r\n\r\n"
    assert raw(server, both).count(b"HTTP/1.1 200") == 0
    still_serves(server)


# --- doors -----------------------------------------------------------------------------------------------------------

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW")
OPEN = ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")
DETOURS = ("/livez/../v1/models", "/livez/%2e%2e/v1/models", "//v1/models", "/v1/models/", "/V1/models", "/v1/models;a")


def test_no_address_and_no_method_opens_without_a_key(store: Any, publish: Callable[..., str]) -> None:
    publish("one", "production")
    settings = Settings(artifacts=store.root, device="cpu", api_keys=("sk-one",))
    with Listening(create_app(settings, store)) as server:
        server.until_ready()
        paths = httpx.get(f"{server.url}/openapi.json", headers={"Authorization": "Bearer sk-one"}).json()["paths"]
        addresses = {path.replace("{model}", "production").replace("{version}", "v") for path in paths}
        guarded = (addresses | {"/docs", "/redoc", "/openapi.json", "/", "/nothing", *DETOURS}) - {*OPEN}
        assert len(guarded) > 20
        for path in guarded:
            for method in METHODS:
                status, answer = call(server, method, path)
                assert status == 401, (method, path, answer)
                assert b"production" not in answer
        wrong = ("", "Bearer", "Bearer ", "Bearer sk-two", "Basic c2stb25l", "sk-one", "Bearer sk-one sk-two", "\xff")
        for value in wrong:
            assert call(server, "GET", "/v1/models", Authorization=value)[0] == 401, value
        assert call(server, "GET", "/v1/models?api_key=sk-one")[0] == 401
        assert call(server, "GET", "/v1/models", Authorization="Bearer sk-one")[0] == 200
        for path in OPEN:
            assert call(server, "GET", path)[0] == 200
            assert call(server, "POST", path)[0] == 405


def test_without_keys_a_page_of_another_site_cannot_have_a_model_loaded(
    store: Any, publish: Callable[..., str]
) -> None:
    publish("one", "production")
    publish("two", "other")
    app = create_app(Settings(artifacts=store.root, device="cpu"), store)
    app.state.this_machine_only = True
    with Listening(app) as server:
        server.until_ready()
        before = httpx.get(f"{server.url}/v1/models").json()["data"]
        for path in ("/v1/models/other", "/v1/models/other/drift", "/v2/models/other", "/v2/models/other/versions/1"):
            answer = httpx.get(server.url + path, headers={"Sec-Fetch-Site": "cross-site"})
            assert answer.status_code == 403, path
        assert httpx.get(f"{server.url}/v1/models").json()["data"] == before
        assert httpx.get(f"{server.url}/v1/models/other").status_code == 200
