"""The orchestrator's own API keys in SQL: made, found, revoked, and held to their quotas.

A quota is checked in the transaction that makes the job or the file, with the key's row locked: many requests at once
cannot pass it together, and what is refused leaves nothing behind. Knows nothing of HTTP and of which route needs what.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from services.orchestrator.database import Database, api_keys, files, jobs, made_by_keys
from services.orchestrator.jobs import ENDED, new_id
from understudy.errors import InvalidRequest, NotFound, QuotaExceeded, RateLimited, UnknownName
from understudy.keys import SCOPES, Caller, Scope, digest_of, new_key, unknown

__all__ = ["ApiKey", "KeyStore", "Quotas"]

DAY_SECONDS = 24 * 3600.0
USED_SECONDS = 60.0
"""How exactly the time of a key's last use is kept: a write for each request would be too dear."""
MAX_NAME = 100

_Kind = Literal["job", "file"]


@dataclass(frozen=True)
class Quotas:
    """What a key may have; None is no bound. A day is the last 24 hours, and bytes are those of uploaded files."""

    max_active_jobs: int | None = None
    max_jobs_per_day: int | None = None
    max_stored_bytes: int | None = None


@dataclass(frozen=True)
class ApiKey:
    """A key's facts, times in seconds since 1970. `hint` is how it begins and ends; the key itself is not kept."""

    id: str
    name: str
    scope: Scope
    hint: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None
    quotas: Quotas

    def opens(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def facts(self, now: float) -> Mapping[str, Any]:
        state = "revoked" if self.revoked_at is not None else "active" if self.opens(now) else "expired"
        return {**asdict(self), "state": state}


class KeyStore:
    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._noted: dict[str, float] = {}

    def create(
        self, name: str, scope: str, expires_in: float | None = None, quotas: Quotas | None = None
    ) -> tuple[ApiKey, str]:
        """A new key, and the text that is shown this once. Raises InvalidRequest by the field at fault."""
        limits, now, key = quotas or Quotas(), self._clock(), new_key()
        _check(name, scope, expires_in, limits)
        values = {
            "id": new_id("key-"),
            "hint": f"{key[:8]}...{key[-4:]}",
            "name": name,
            "scope": scope,
            "created_at": now,
            "expires_at": None if expires_in is None else now + expires_in,
            **asdict(limits),
        }
        with self._database.write() as sql:
            sql.execute(insert(api_keys).values(digest=digest_of(key).hex(), **values))
            return _key(sql.execute(_by_id(str(values["id"]))).one()), key

    def all(self) -> list[ApiKey]:
        """Every key there ever was, newest first."""
        with self._database.read() as sql:
            rows = sql.execute(select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.id))
            return [_key(row) for row in rows]

    def any(self) -> bool:
        """Whether there ever was a key. Revoking the last one does not open the service again."""
        with self._database.read() as sql:
            return sql.scalar(select(api_keys.c.id).limit(1)) is not None

    def any_open(self) -> bool:
        """Whether anybody can come in with one of the keys."""
        now = self._clock()
        return any(key.opens(now) for key in self.all())

    def revoke(self, key_id: str) -> ApiKey:
        """Shut a key out for good; again changes nothing. Raises NotFound."""
        with self._database.write() as sql:
            open_yet = (api_keys.c.id == _in_a_table(key_id)) & api_keys.c.revoked_at.is_(None)
            sql.execute(update(api_keys).where(open_yet).values(revoked_at=self._clock()))
            row = sql.execute(_by_id(key_id)).one_or_none()
        if row is None:
            raise NotFound(f"there is no key '{key_id[:100]}': `understudy keys list` has their ids", param="id")
        return _key(row)

    def find(self, key: str) -> Caller | None:
        """Whose key it is; None where it opens nothing. One look into an index."""
        digest, now = digest_of(key).hex(), self._clock()
        with self._database.read() as sql:
            row = sql.execute(select(api_keys).where(api_keys.c.digest == digest)).one_or_none()
        # The index compares digests, which nobody can choose; what it finds is compared in constant time all the same.
        if row is None or not hmac.compare_digest(row.digest, digest) or not (found := _key(row)).opens(now):
            return None
        if found.last_used_at is None or now - found.last_used_at > USED_SECONDS:
            self._used(found.id, now)
        return Caller(found.id, found.scope)

    def still(self, caller: Caller) -> bool:
        """Whether a caller who came in with one of these keys would come in now."""
        with self._database.read() as sql:
            row = sql.execute(_by_id(caller.id)).one_or_none()
        return row is None or _key(row).opens(self._clock())

    def check_room(self, caller: Caller, size: int) -> None:
        """Raise QuotaExceeded where so many bytes more are too many for the key: before they are stored."""
        with self._database.read() as sql:
            row = sql.execute(_by_id(caller.id)).one_or_none()
            if row is not None:
                _check_bytes(sql, _key(row), size)

    def count_job(self, sql: Connection, caller: Caller, job_id: str) -> None:
        """Count a job that this transaction makes. Raises RateLimited, and the transaction must not be committed."""
        key = self._locked(sql, caller)
        if key is not None:
            _check_active(sql, key)
            _check_day(sql, key, self._clock())
            self._count(sql, key, "job", job_id)

    def count_file(self, sql: Connection, caller: Caller, file_id: str, size: int) -> None:
        """Count a file that this transaction makes. Raises QuotaExceeded, and the transaction must not be committed."""
        key = self._locked(sql, caller)
        if key is not None:
            _check_bytes(sql, key, size)
            self._count(sql, key, "file", file_id)

    def _locked(self, sql: Connection, caller: Caller) -> ApiKey | None:
        """The caller's key, which nobody else counts with meanwhile; None where it is none of these.

        Raises Unauthorized for a key that was let in and has been revoked since.
        """
        row = sql.execute(_by_id(caller.id).with_for_update()).one_or_none()
        if row is None:
            return None
        if not (key := _key(row)).opens(self._clock()):
            raise unknown()
        return key

    def _count(self, sql: Connection, key: ApiKey, kind: _Kind, object_id: str) -> None:
        values = {"object_id": object_id, "key_id": key.id, "kind": kind, "made_at": self._clock()}
        sql.execute(insert(made_by_keys).values(values))

    def _used(self, key_id: str, now: float) -> None:
        if now - self._noted.get(key_id, -USED_SECONDS) < USED_SECONDS:
            return  # tried a moment ago, and the database was locked: not every request waits for that
        self._noted[key_id] = now
        with suppress(SQLAlchemyError), self._database.write() as sql:  # nobody is turned away for a note
            sql.execute(update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=now))


def _check_active(sql: Connection, key: ApiKey) -> None:
    most = key.quotas.max_active_jobs
    if most is None:
        return
    active = select(func.count()).select_from(made_by_keys.join(jobs, jobs.c.id == made_by_keys.c.object_id))
    if sql.scalar(active.where(made_by_keys.c.key_id == key.id, jobs.c.status.not_in(ENDED))) >= most:  # type: ignore[operator]
        raise RateLimited(
            f"this key may have {most} jobs that have not ended, and has them: wait until one ends, or cancel one"
        )


def _check_day(sql: Connection, key: ApiKey, now: float) -> None:
    most = key.quotas.max_jobs_per_day
    if most is None:
        return
    if most == 0:
        raise QuotaExceeded("this key may make no jobs")
    mine = (made_by_keys.c.key_id == key.id) & (made_by_keys.c.kind == "job")
    newest = select(made_by_keys.c.made_at).where(mine, made_by_keys.c.made_at > now - DAY_SECONDS)
    # The one that must be a day old before there is room for another.
    bound = sql.scalar(newest.order_by(made_by_keys.c.made_at.desc()).offset(most - 1).limit(1))
    if bound is not None:
        wait = bound + DAY_SECONDS - now
        raise RateLimited(
            f"this key may make {most} jobs in 24 hours, and has made them: there is room again in {wait:.0f} s",
            retry_after=wait,
        )


def _check_bytes(sql: Connection, key: ApiKey, size: int) -> None:
    most = key.quotas.max_stored_bytes
    if most is None:
        return
    stored = select(func.sum(files.c.bytes)).select_from(
        made_by_keys.join(files, files.c.id == made_by_keys.c.object_id)
    )
    has = int(sql.scalar(stored.where(made_by_keys.c.key_id == key.id)) or 0)
    if has + size > most:
        raise QuotaExceeded(
            f"this key may store {most} bytes and stores {has}: {size} more are too many, delete a file first",
            param="file",
        )


def _check(name: str, scope: str, expires_in: float | None, quotas: Quotas) -> None:
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise InvalidRequest(f"a key's name has 1 to {MAX_NAME} printable characters", param="name")
    if scope not in SCOPES:
        raise UnknownName.among("scope", scope[:50], SCOPES, param="scope")
    if expires_in is not None and not expires_in > 0:
        raise InvalidRequest("a key expires in the future: give a time above 0", param="expires")
    for field, value in asdict(quotas).items():
        if value is not None and not 0 <= value < 2**31 * (2**31 if field == "max_stored_bytes" else 1):
            raise InvalidRequest(
                f"{field} is {value}: a quota is 0 or more, and within the database's numbers", param=field
            )


def _by_id(key_id: str) -> Select[Any]:
    return select(api_keys).where(api_keys.c.id == _in_a_table(key_id))


def _in_a_table(key_id: str) -> str:
    """The id, or one that no key has for what PostgreSQL would not take, such as a NUL."""
    return key_id if key_id.isprintable() else ""


def _key(row: Row[Any]) -> ApiKey:
    named = dict(row._mapping)
    quotas = Quotas(**{name: named.pop(name) for name in ("max_active_jobs", "max_jobs_per_day", "max_stored_bytes")})
    del named["digest"]
    return ApiKey(**named, quotas=quotas)
