"""What a result says of the machine that it was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["machine"]


def machine() -> dict[str, Any]:
    """The processor's name, its cores and the Python. Linux alone names the processor in full."""
    about = Path("/proc/cpuinfo")
    names = about.read_text().splitlines() if about.is_file() else []
    cpu = next(
        (line.partition(":")[2].strip() for line in names if line.startswith("model name")), platform.processor()
    )
    return {"cpu": cpu or platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
