"""`Idempotency-Key`: a request that is sent again gets the first answer again, and does nothing twice.

After draft-ietf-httpapi-idempotency-key-header-06 and Stripe's API: the same key and request replays the first answer,
another request under the key is 422, and one whose first is still at work is 409. A key is taken in one transaction;
the answer is written in the transaction that does the work, so there is either both or neither. What was refused did
nothing: its key is free again. So is, after a while, the key of a process that died before its work was committed.
Knows nothing of what the requests do.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from services.orchestrator.database import Database, idempotency_keys
from services.orchestrator.jobs import new_id
from understudy.errors import Conflict, InvalidRequest, KeyReused

__all__ = ["HEADER", "REPLAYED", "Idempotency", "Replay", "Ticket", "fingerprint"]

HEADER, REPLAYED = "Idempotency-Key", "Idempotent-Replayed"
KEPT_SECONDS = 24 * 3600.0
ABANDONED_SECONDS = 60.0
"""After this long without an answer the process that took a key is given up: no request here works for so long."""
MAX_KEY = 255


@dataclass(frozen=True)
class Replay:
    """What the first request was answered."""

    status: int
    body: str


@dataclass(frozen=True)
class Ticket:
    """The right to do the work behind a key. None of its fields is set where the client gave no key."""

    scope: str = ""
    key: str = ""
    token: str = ""

    def answer(self, sql: Connection, status: int, body: str) -> None:
        """Keep the answer, in the transaction that does the work. Raises Conflict where another request took over."""
        if not self.token:
            return
        mine = update(idempotency_keys).where(*_at(self.scope, self.key), idempotency_keys.c.token == self.token)
        if sql.execute(mine.values(status=status, body=body)).rowcount != 1:
            raise _in_flight(self.key)


class Idempotency:
    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    @contextmanager
    def request(self, scope: str, key: str | None, content: str) -> Iterator[Ticket | Replay]:
        """Take the key for one request, whose content has the fingerprint `content`, or say what was answered before.

        `scope` keeps apart what different callers do at different addresses. Where the block raises, nothing was done
        and the key is given back. Raises KeyReused for another request under the key, Conflict while it is at work.
        """
        if key is None:
            yield Ticket()
            return
        _check(key)
        taken = self._take(scope, key, content)
        try:
            yield taken
        except BaseException:
            if isinstance(taken, Ticket):
                self._give_back(taken)
            raise

    def _take(self, scope: str, key: str, content: str) -> Ticket | Replay:
        ticket, now = Ticket(scope, key, new_id("")), self._clock()
        values = {"scope": scope, "key": key, "token": ticket.token, "content": content, "taken_at": now}
        try:
            with self._database.write() as sql:
                sql.execute(delete(idempotency_keys).where(idempotency_keys.c.taken_at < now - KEPT_SECONDS))
                sql.execute(insert(idempotency_keys).values(values))
            return ticket
        except IntegrityError:
            return self._known(ticket, content, now)

    def _known(self, ticket: Ticket, content: str, now: float) -> Ticket | Replay:
        """The key is there already: answered, at work, or left behind by a process that died."""
        with self._database.write() as sql:
            row = sql.execute(select(idempotency_keys).where(*_at(ticket.scope, ticket.key))).one_or_none()
            if row is None:  # given back in this very moment
                raise _in_flight(ticket.key)
            if row.content != content:
                raise KeyReused(
                    f"the key '{ticket.key}' came with another request before: send each request under its own key",
                    param=HEADER,
                )
            if row.status is not None:
                return Replay(row.status, row.body)
            abandoned = (idempotency_keys.c.token == row.token) & (
                idempotency_keys.c.taken_at < now - ABANDONED_SECONDS
            )
            over = update(idempotency_keys).where(*_at(ticket.scope, ticket.key), abandoned)
            if sql.execute(over.values(token=ticket.token, taken_at=now)).rowcount != 1:
                raise _in_flight(ticket.key)
        return ticket

    def _give_back(self, ticket: Ticket) -> None:
        mine = (idempotency_keys.c.token == ticket.token) & idempotency_keys.c.status.is_(None)
        with self._database.write() as sql:
            sql.execute(delete(idempotency_keys).where(*_at(ticket.scope, ticket.key), mine))


def fingerprint(content: Mapping[str, Any]) -> str:
    """What makes two requests the same one: what was sent, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(dict(content), sort_keys=True).encode()).hexdigest()


def _at(scope: str, key: str) -> tuple[Any, Any]:
    return idempotency_keys.c.scope == scope, idempotency_keys.c.key == key


def _check(key: str) -> None:
    if not 1 <= len(key) <= MAX_KEY or not (key.isascii() and key.isprintable()):
        raise InvalidRequest(f"{HEADER} has 1 to {MAX_KEY} printable ASCII characters", param=HEADER)


def _in_flight(key: str) -> Conflict:
    return Conflict(f"a request with the key '{key}' is at work: ask again in a moment", param=HEADER, retry_after=1)
