"""`python -m stand.doomed SEED`: orchestrators that are killed where they change a job's state, one after the other.

Each is forked from this process, which has imported everything, so that the next one is there in a moment. Dice of the
seed decide which change of its life is the last, and whether it dies before it is committed or right after.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event

from services.orchestrator import idempotency
from services.orchestrator.__main__ import main as orchestrate
from services.orchestrator.database import Database

SPARED = (0, 0, 1, 2, 4)  # changes that a life has before its last


def _doom(dice: random.Random) -> None:
    """Kill this process in or after one of its next transactions that write a job."""
    left, before = dice.choice(SPARED), dice.random() < 0.3
    here = threading.local()
    turn = threading.Lock()
    whole = Database.write

    @event.listens_for(Engine, "before_cursor_execute")
    def _(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("UPDATE jobs", "INSERT INTO jobs")):
            here.changes = True

    def is_last() -> bool:
        nonlocal left
        if not getattr(here, "changes", False):
            return False
        with turn:
            left -= 1
            return left < 0

    @contextmanager
    def write(self: Database) -> Iterator[Connection]:
        here.changes = False
        with whole(self) as sql:
            yield sql
            last = is_last()
            if last and before:
                os.kill(os.getpid(), signal.SIGKILL)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    Database.write = write  # type: ignore[method-assign]


def main(seed: str) -> None:
    idempotency.ABANDONED_SECONDS = 3.0  # a key whose process was killed is free again this soon
    child, lives = 0, 0

    def end(*_: Any) -> None:
        if child:
            os.kill(child, signal.SIGKILL)
        print(f"orchestrators killed: {lives - 1}", flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    while True:
        lives += 1
        child = os.fork()
        if not child:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if seed != "spared":
                _doom(random.Random(f"{seed}-{lives}"))
            orchestrate()
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1])
