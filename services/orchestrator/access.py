"""Who may do what over HTTP: the scope of every route, and the guard that holds requests to it.

`SCOPES` is the one place where a route's scope stands; an application with a route that has none does not start. The
guard works before a body is read. What it knows of a key is up to `FRESH_SECONDS` old: that long a revoked key lives.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.routing import compile_path

from services.orchestrator.away import is_away, told
from services.orchestrator.keys import KeyStore
from services.orchestrator.settings import Settings
from understudy.browsers import is_loopback
from understudy.keys import ANYBODY, NEW_KEY, Caller, Keys, Scope, digest_of, presented, unknown

__all__ = ["FRESH_SECONDS", "SCOPES", "Door", "check_scopes"]

FRESH_SECONDS = 3.0

_JOBS = "/v1/fine_tuning/jobs"

SCOPES: Mapping[tuple[str, str], Scope] = MappingProxyType(
    {
        ("GET", "/v1/files"): "read",
        ("POST", "/v1/files"): "submit",
        ("GET", "/v1/files/{file_id}"): "read",
        ("DELETE", "/v1/files/{file_id}"): "submit",
        ("GET", "/v1/files/{file_id}/content"): "read",
        ("GET", _JOBS): "read",
        ("POST", _JOBS): "submit",
        ("GET", f"{_JOBS}/{{job_id}}"): "read",
        ("POST", f"{_JOBS}/{{job_id}}/cancel"): "submit",
        ("POST", f"{_JOBS}/{{job_id}}/pause"): "submit",
        ("POST", f"{_JOBS}/{{job_id}}/resume"): "submit",
        ("GET", f"{_JOBS}/{{job_id}}/events"): "read",
        ("GET", f"{_JOBS}/{{job_id}}/checkpoints"): "read",
        ("GET", f"{_JOBS}/{{job_id}}/rejected_rows"): "read",
        ("GET", f"{_JOBS}/{{job_id}}/report"): "read",
        ("GET", f"{_JOBS}/{{job_id}}/report.html"): "read",
        ("GET", f"{_JOBS}/{{job_id}}/examples"): "read",
        ("GET", "/v1/fine_tuning/updates"): "read",
        ("POST", "/v1/comparisons"): "submit",
        ("GET", "/v1/models"): "read",
        ("GET", "/v1/models/{model}"): "read",
        ("DELETE", "/v1/models/{model}"): "admin",
        ("POST", "/v1/models/{alias}/promote"): "admin",
        ("POST", "/v1/models/{alias}/rollback"): "admin",
        ("GET", "/v1/versions"): "read",
        ("GET", "/v1/versions/{model}"): "read",
    }
)
"""A key for each route. What is no route, such as the pages of /docs, needs any key."""

_PATTERNS = tuple((method, compile_path(path)[0], scope) for (method, path), scope in SCOPES.items())


def check_scopes(routers: Iterable[APIRouter]) -> None:
    """Raise RuntimeError, which says what to do, for a route without a scope."""
    for router in routers:
        for route in router.routes:
            methods = (route.methods or ()) if isinstance(route, APIRoute) else ("",)
            if any((method, getattr(route, "path", "")) not in SCOPES for method in methods):
                raise RuntimeError(f"{getattr(route, 'path', route)} has no scope: add it to {__name__}.SCOPES")


class Door:
    """The guard of one process: keys from the settings, which may do all, and those of the database.

    Without any key of either kind a request passes where only this machine can send one, or where the settings say so.
    """

    def __init__(self, settings: Settings) -> None:
        self._static = Keys(settings.keys)
        self._may_be_open = settings.allow_anonymous or is_loopback(settings.host)
        self._known: dict[bytes, tuple[float, Caller]] = {}
        self._looked, self._has_keys = -FRESH_SECONDS, False

    async def admit(self, scope: Mapping[str, Any], authorization: str | None) -> Caller:
        keys: KeyStore = scope["state"]["keys"]
        try:
            caller = await self._caller(keys, authorization)
        except SQLAlchemyError as error:
            if is_away(error):
                raise told(error) from error
            raise
        caller.needs(_needed(scope["method"], scope["path"]))
        return caller

    async def _caller(self, keys: KeyStore, authorization: str | None) -> Caller:
        if self._may_be_open and not self._static and not await self._any(keys):
            return ANYBODY
        key = presented(authorization)
        if found := self._static.find(key):
            return found
        if not NEW_KEY.fullmatch(key):
            raise unknown()  # the database is not asked about what cannot be there
        digest = digest_of(key)
        at, caller = self._known.get(digest, (0.0, None))
        if caller is None or time.monotonic() - at > FRESH_SECONDS:
            at, caller = time.monotonic(), await run_in_threadpool(keys.find, key)
            self._keep(digest, at, caller)
        if caller is None:
            raise unknown()
        return caller

    async def _any(self, keys: KeyStore) -> bool:
        """Whether there are keys in the database; once there were, there are."""
        if not self._has_keys and time.monotonic() - self._looked > FRESH_SECONDS:
            looked, self._has_keys = time.monotonic(), await run_in_threadpool(keys.any)
            self._looked = looked
        return self._has_keys

    def _keep(self, digest: bytes, at: float, caller: Caller | None) -> None:
        """Only keys that open something are kept, so there are never more than the database has."""
        if caller is None:
            self._known.pop(digest, None)
        else:
            self._known[digest] = (at, caller)


def _needed(method: str, path: str) -> Scope:
    return next((scope for verb, pattern, scope in _PATTERNS if verb == method and pattern.match(path)), "read")
