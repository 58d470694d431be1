"""Callers of the teacher service, as a process that is told what to do over its standard input, one JSON line a time.

The first line names the service, the examples and the options of the requests; each line after it how many callers ask
at once and how many texts a request has. Each is answered with the seconds from the first request to the last answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx


async def main() -> None:
    setup = json.loads(sys.stdin.readline())
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=setup["url"], limits=limits, timeout=300, trust_env=False) as client:
        _answer({"ready": True})
        for line in sys.stdin:
            wanted = json.loads(line)
            try:
                seconds = await _ask(client, setup, wanted["callers"], wanted["texts"])
                _answer({"seconds": seconds})
            except (httpx.HTTPError, ValueError) as error:
                _answer({"error": str(error)})


async def _ask(client: httpx.AsyncClient, setup: dict[str, Any], callers: int, texts: int) -> float:
    """Each caller sends its next request when its last one is answered, until all texts are."""
    requests = _requests(setup["examples"], texts, setup["options"])  # shared: each body is taken once
    began = time.perf_counter()
    answered = await asyncio.gather(*(_caller(client, requests) for _ in range(callers)))
    seconds = time.perf_counter() - began
    if sum(answered) != len(setup["examples"]):
        raise ValueError(f"{sum(answered)} answers for {len(setup['examples'])} texts")
    return seconds


async def _caller(client: httpx.AsyncClient, requests: Iterator[dict[str, Any]]) -> int:
    answered = 0
    for body in requests:
        answer = await client.post("/v1/attributions", json=body)
        if answer.is_error:
            raise ValueError(f"{answer.status_code} {answer.text[:300]}")
        answered += len(answer.json()["results"])
    return answered


def _requests(examples: Sequence[dict[str, Any]], texts: int, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for start in range(0, len(examples), texts):
        yield {**options, "examples": examples[start : start + texts]}


def _answer(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
