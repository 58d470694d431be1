"""A teacher that says the same of every example, over real HTTP and as fast as Python can, or after a fixed time each.

    python stub_teacher.py PORT [SECONDS_AN_EXAMPLE]

One process with one thread, so that with a time an example it is a model with one device: calls wait for each other.
Knows nothing of models; `Stub` starts it and ends it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

__all__ = ["Stub"]

INFO = {
    "id": "teacher",
    "architecture": "classifier",
    "parameters": 1,
    "max_tokens": 512,
    "fingerprint": "0" * 16,
    "precision": "float32",
    "device": "cpu",
}


class Stub:
    """The teacher as a process of its own."""

    def __init__(self, port: int, seconds: float = 0.0) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen([sys.executable, str(Path(__file__)), str(port), str(seconds)])
        deadline = time.monotonic() + 30
        while True:
            try:
                httpx.get(f"{self.url}/readyz", trust_env=False)
                return
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def _answer(path: str, body: bytes) -> Any:
    if path != "/v1/attributions":
        return INFO if path.startswith("/v1/models/") else {"status": "ok"}
    asked = json.loads(body)
    facts = {"model": "teacher", "fingerprint": INFO["fingerprint"], "precision": "float32"}
    return facts | {
        "method": asked["method"],
        "target": asked["target"],
        "results": [_said(one, asked["labels"]) for one in asked["examples"]],
    }


def _said(example: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    """Every word scored, the first five of them the rationale: answers of the size that real ones have."""
    text, words, place = example["input"], [], 0
    for word in text.split():
        place = text.index(word, place)
        words.append({"text": word, "start": place, "end": place + len(word), "score": 0.123456789 + len(word)})
        place += len(word)
    share = 1 / len(labels)
    return {
        "id": example["id"],
        "prediction": labels[0],
        "probability": share,
        "probabilities": dict.fromkeys(labels, share),
        "explained": example["output"] or labels[0],
        "words": words,
        "rationale": words[:5],
        "tokens": len(words),
    }


async def _serve(port: int, seconds: float) -> None:
    turn = asyncio.Lock()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                said = _answer(lines[0].split()[1], body)
                if seconds and "results" in said:
                    async with turn:
                        await asyncio.sleep(seconds * len(said["results"]))
                content = json.dumps(said).encode()
                status = f"HTTP/1.1 {HTTPStatus.OK.value} OK\r\ncontent-type: application/json\r\n"
                writer.write(f"{status}content-length: {len(content)}\r\n\r\n".encode() + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
