"""What every service that guards its door may choose: its keys, who may come without one, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

from understudy.keys import HASHED

__all__ = ["GuardedSettings", "listed", "whole_keys"]


def listed(value: Any) -> Any:
    """A list as an environment variable has it: JSON, or separated by commas. Anything else stays as it is."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.startswith("[") else [part.strip() for part in value.split(",") if part.strip()]


def whole_keys(value: str) -> list[str]:
    """Those of a service's keys that a caller can send, from the service's own variable or file: no `sha256:<hex>`."""
    keys = (key for part in listed(value) for key in str(part).split())
    return [key for key in keys if not key.startswith(HASHED)]


class GuardedSettings(BaseSettings):
    """Times are in seconds."""

    api_keys: Annotated[tuple[str, ...], NoDecode] = Field(default=(), repr=False)
    """Requests bring one of them (`Authorization: Bearer <key>`). Each as it is, or as `sha256:<hex>` of it."""
    api_keys_file: Path | None = None
    """A file with more keys, one a line."""
    allow_anonymous: bool = False
    """Without a key, the service listens on this machine's own addresses only, unless this is set."""
    drain_seconds: float = Field(default=5.0, ge=0)
    """How long after SIGTERM new requests are still answered, so that a balancer has time to notice."""

    @field_validator("api_keys", mode="before")
    @classmethod
    def _listed_keys(cls, value: Any) -> Any:
        return listed(value)

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys, those of the file too. Raises OSError where the file cannot be read."""
        if self.api_keys_file is None:
            return self.api_keys
        lines = self.api_keys_file.read_text(encoding="utf-8").splitlines()
        return (*self.api_keys, *(line.strip() for line in lines if line.strip()))
