"""What the OpenAPI document promises, held against seeded nonsense: documented statuses, one error shape, no defect."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.anyio

NAMES = (
    "production",
    "writer",
    "nothing",
    "..",
    "%2e%2e%2fproduction",
    "a%00b",
    "model-" + "0" * 24,
    "💥",
    "x" * 3000,
)
TURNS = 12


def _scalars(draw: random.Random) -> Any:
    return draw.choice(
        [
            None,
            True,
            0,
            -1,
            1,
            2,
            1e308,
            0.5,
            "",
            " ",
            "a dull film",
            "production",
            "\ud800",
            "\x00",
            "{input}",
            "x" * 200,
        ]
    )


def _nonsense(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.random()
    if kind < 0.5 or depth > 3:
        return _scalars(draw)
    if kind < 0.75:
        return [_nonsense(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {str(_scalars(draw)): _nonsense(draw, depth + 1) for _ in range(draw.randrange(3))}


GOOD: dict[str, dict[str, Any]] = {
    "/v1/predictions": {"inputs": ["a", {"input": "b", "choices": ["negative", "positive"]}], "model": "production"},
    "/v1/completions": {"prompt": ["a", "b"], "model": "production", "logprobs": 2, "stream": False},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "a"}],
        "model": "production",
        "logprobs": True,
        "top_logprobs": 2,
    },
    ":predict": {"instances": ["a", {"input": "b"}], "parameters": {"top_k": 2}},
    ":explain": {"instances": ["a", {"input": "b"}], "top_k": 2},
    "/infer": {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}],
        "outputs": [{"name": "label"}],
        "parameters": {"top_k": 2},
    },
    "/repository/index": {},
}


def _spoilt(draw: random.Random, value: Any) -> Any:
    """A good body in which one thing, somewhere, is nonsense."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.2:
        return _nonsense(draw)
    copy: Any = value.copy()
    key = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
    if isinstance(value, dict) and draw.random() < 0.2:
        copy[str(_scalars(draw))] = _nonsense(draw)
    else:
        copy[key] = _spoilt(draw, value[key])
    return copy


def _bodies(draw: random.Random, path: str) -> Iterator[bytes]:
    good = next(body for end, body in GOOD.items() if path.endswith(end))
    yield json.dumps(good).encode()
    for _ in range(TURNS):
        yield json.dumps(_spoilt(draw, good)).encode()
    yield from (b"", b"{", b"[" * 5000, b"\xff\xfe", b"NaN")


async def test_no_nonsense_is_a_defect_or_an_undocumented_answer(
    running: Any, store: Any, publish: Callable[..., str]
) -> None:
    publish("one", "production")
    publish("writer", "writer")
    draw = random.Random(6)
    seen: set[tuple[str, int]] = set()
    async with running(store) as student:
        await student.until_ready()
        document = (await student.http.get("/openapi.json")).json()
        for path, methods in document["paths"].items():
            for method, described in methods.items():
                bodies = _bodies(draw, path) if method == "post" else [b""] * len(NAMES)
                for turn, body in enumerate(bodies):
                    name = "production" if method == "post" and turn % 3 else NAMES[turn % len(NAMES)]
                    url = path.replace("{model}", name).replace("{version}", draw.choice(NAMES))
                    answer = await student.http.request(
                        method, url, content=body, headers={"content-type": "application/json"}
                    )
                    if answer.status_code == 404 and "no such address" in answer.text:
                        continue  # what the name made of it is another address
                    assert str(answer.status_code) in described["responses"], (method, url, body, answer.text)
                    assert answer.status_code != 500, (method, url, body)
                    if answer.status_code >= 400:
                        error = answer.json()["error"]
                        assert isinstance(error, str) == path.startswith("/v2"), (path, error)
                    seen.add((path, answer.status_code))
    answered = {path for path, status in seen if status == 200}
    assert answered >= {path for path, methods in document["paths"].items() if "post" in methods} - {
        "/v2/models/{model}/versions/{version}/infer"
    }
