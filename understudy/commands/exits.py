"""Exit statuses: what a script may rely on. The one table; the help and docs/cli.md show it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

__all__ = ["EPILOG", "MEANINGS", "Exit"]


class Exit(IntEnum):
    OK = 0
    NO = 1
    USE = 2
    JOB = 3
    INTERRUPTED = 130


MEANINGS: Mapping[Exit, str] = MappingProxyType(
    {
        Exit.OK: "it is done, and where something was asked the answer is yes",
        Exit.NO: "an error that is explained on standard error; or the answer is no: figures that are not confirmed "
        "(reproduce), a problem (doctor)",
        Exit.USE: "wrong use: no such command or option, or a value that it cannot have",
        Exit.JOB: "the job itself failed or was cancelled (distill, quickstart, jobs watch)",
        Exit.INTERRUPTED: "Ctrl-C; other signals end it with 128 and their number",
    }
)

EPILOG = "Exit status: 0 done · 1 an error, or the answer is no · 2 wrong use · 3 the job failed · 130 Ctrl-C."
