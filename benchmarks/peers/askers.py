"""Callers of a serving process, told what to do over standard input, one JSON line a time, answered by one JSON line.

The first line names the servers: `{"name": {"port", "path", "bodies": [...]}}`, the bodies being what is posted. A line
after it is one of

    {"server", "callers", "requests", "first"}    each caller sends its next request when its last one is answered
    {"server", "rate", "seconds"}                 requests arrive by chance (Poisson), so many a second, answered or not

and is answered with `seconds`, `statuses` (how often each) and `milliseconds` of each request that was answered with
200, counted from when it was due. This asks little of the processor, which it shares with whom it asks: requests are
bytes that are made beforehand, and of an answer only its status and its length are read.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from typing import Any

HOST = "127.0.0.1"


class Server:
    """One address, with connections that stay open between requests."""

    def __init__(self, port: int, path: str, bodies: list[str]) -> None:
        self._port = port
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: "
        self._requests = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in map(str.encode, bodies)]
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, number: int) -> tuple[int, bytes]:
        """Post one of the bodies: the status and the answer."""
        reader, writer = self._resting() or await asyncio.open_connection(HOST, self._port)
        try:
            writer.write(self._requests[number % len(self._requests)])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        except BaseException:
            writer.close()
            raise
        self._idle.append((reader, writer))
        return int(head[9:12]), body

    def _resting(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection that the server has not closed meanwhile, which it may do with any that rests."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()


class Tally:
    """What a number of requests came to."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.milliseconds: list[float] = []

    async def count(self, server: Server, number: int, due: float) -> None:
        try:
            status, _ = await server.ask(number)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.statuses[type(error).__name__] += 1
            return
        self.statuses[str(status)] += 1
        if status == 200:
            self.milliseconds.append(1000 * (time.perf_counter() - due))


async def main() -> None:
    servers = {name: Server(**about) for name, about in json.loads(sys.stdin.readline()).items()}
    _answer({"ready": True})
    for line in sys.stdin:
        wanted = json.loads(line)
        server = servers[wanted["server"]]
        tally, began = Tally(), time.perf_counter()
        if "rate" in wanted:
            await _arriving(server, tally, wanted["rate"], wanted["seconds"])
        else:
            await _in_turn(
                server, tally, wanted["callers"], range(wanted["first"], wanted["first"] + wanted["requests"])
            )
        seconds = time.perf_counter() - began
        answer = {"seconds": seconds, "statuses": tally.statuses, "milliseconds": tally.milliseconds}
        server.close()
        _answer(answer)


async def _in_turn(server: Server, tally: Tally, callers: int, requests: range) -> None:
    numbers = iter(requests)  # shared: each request is sent once

    async def caller() -> None:
        for number in numbers:
            await tally.count(server, number, time.perf_counter())

    await asyncio.gather(*(caller() for _ in range(callers)))


async def _arriving(server: Server, tally: Tally, rate: float, seconds: float) -> None:
    draw = random.Random(0)
    due = began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        number = 0
        while (due := due + draw.expovariate(rate)) < began + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(tally.count(server, number, due))
            number += 1


def _answer(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
