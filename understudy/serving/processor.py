"""What this machine's processor can do, as far as engines are chosen by it. No torch.

Products in int8 are faster than in float32 where the processor has instructions for them. On x86 these came with AVX2;
without it the libraries still answer, more slowly than in float32. Nothing is assumed of processors that say nothing.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

__all__ = ["features", "slow_here"]

_X86 = ("x86_64", "amd64", "i686", "i386")


@cache
def features() -> frozenset[str] | None:
    """The instructions that an x86 processor names, as Linux lists them; None where that is not known."""
    about = Path("/proc/cpuinfo")
    if platform.machine().lower() not in _X86 or not about.is_file():
        return None
    flags = (line.partition(":")[2].split() for line in about.read_text().splitlines() if line.startswith("flags"))
    return frozenset(next(flags, ())) or None


def slow_here(name: str) -> bool:
    """Whether an engine such as `ct2:int8` would be slower here than in float32, whatever it was when published."""
    known = features()
    return "int8" in name and known is not None and "avx2" not in known
