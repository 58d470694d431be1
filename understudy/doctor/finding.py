"""What a probe of the doctor's is told, and what it says. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Finding", "Place", "State"]

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Place:
    """Where to look: the stack's folder, and an orchestrator where one was named."""

    home: Path
    url: str | None = None
    api_key: str | None = None


@dataclass(frozen=True)
class Finding:
    """One line: `fix` is the command to run, or the thing to do, where something is not as it should be."""

    name: str
    state: State
    says: str
    fix: str = ""
