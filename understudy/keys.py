"""API keys: what one looks like, how a request brings it, what it may do, and the keys that a service is started with.

A key is never kept, only its SHA-256: a key of ours has 256 random bits, so nothing slower than one hash is needed to
keep it from being guessed. Knows no database (the orchestrator's own keys are there) and no route.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from understudy.errors import InvalidRequest, MissingScope, Unauthorized

__all__ = [
    "ANYBODY",
    "HASHED",
    "NEW_KEY",
    "SCOPES",
    "Caller",
    "Guard",
    "Keys",
    "Scope",
    "digest_of",
    "new_key",
    "presented",
    "unknown",
]

Scope = Literal["read", "submit", "admin"]
"""What a key may do; each scope includes those before it."""
SCOPES: tuple[Scope, ...] = get_args(Scope)

PREFIX = "sk-us-"
"""By it people and scanners of secrets know a key of Understudy where they see one."""
NEW_KEY = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")
HASHED = "sha256:"
"""What a key in a service's settings begins with where only its SHA-256 is given."""
MAX_KEY = 512
"""Characters of any key: no more of what a stranger sends is hashed."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NEEDED = "this service needs an API key: send the header 'Authorization: Bearer <key>'"
_UNKNOWN = "the API key is not one that this service knows"


@dataclass(frozen=True)
class Caller:
    """Who asks. `id` is the key's, and empty where nobody had to bring one."""

    id: str = ""
    scope: Scope = "admin"

    def needs(self, scope: Scope) -> None:
        """Raise MissingScope unless the caller may do what `scope` is for."""
        if SCOPES.index(self.scope) < SCOPES.index(scope):
            raise MissingScope(
                f"this needs a key with the scope '{scope}', and this one has '{self.scope}': ask whoever runs the "
                f"service for one (`understudy keys create NAME --scope {scope}`)"
            )


ANYBODY = Caller()


class Guard(Protocol):
    """Decides who may pass."""

    async def admit(self, scope: Mapping[str, Any], authorization: str | None) -> Caller:
        """The caller of the ASGI request `scope`. Raises Unauthorized, or MissingScope for what the key may not do."""


class Keys:
    """Keys from a service's settings, each as it is or as `sha256:<hex>`; they may do all. None at all opens it."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest_in(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    async def admit(self, scope: Mapping[str, Any], authorization: str | None) -> Caller:
        del scope
        if not self:
            return ANYBODY
        caller = self.find(presented(authorization))
        if caller is None:
            raise unknown()
        return caller

    def find(self, key: str) -> Caller | None:
        """Whose key it is. Takes equally long for any wrong one."""
        given, found = digest_of(key), None
        for known in self._digests:
            if hmac.compare_digest(given, known):
                found = Caller(f"static-{known.hex()[:16]}")
        return found


def new_key() -> str:
    """A fresh key: 256 random bits behind the prefix."""
    return PREFIX + secrets.token_urlsafe(32)


def presented(authorization: str | None) -> str:
    """The key in an Authorization header, whose bytes were read as Latin-1.

    Raises Unauthorized where there is none; no error repeats what was sent.
    """
    scheme, _, key = (authorization or "").partition(" ")
    key = key.strip().encode("latin-1", "replace").decode("utf-8", "surrogateescape")
    if scheme.lower() != "bearer" or not key:
        raise Unauthorized(_NEEDED)
    if len(key) > MAX_KEY:
        raise unknown()
    return key


def digest_of(key: str) -> bytes:
    """What is kept of a key: SHA-256 of its bytes."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def unknown() -> Unauthorized:
    """One answer for every key that does not fit: wrong, expired and revoked ones cannot be told apart."""
    return Unauthorized(_UNKNOWN)


def _digest_in(key: str) -> bytes:
    if not key.startswith(HASHED):
        return digest_of(key)
    digits = key.removeprefix(HASHED).lower()
    if not _DIGEST.fullmatch(digits):
        raise InvalidRequest(f"an API key that begins with '{HASHED}' has 64 hex digits behind it", param="api_keys")
    return bytes.fromhex(digits)
