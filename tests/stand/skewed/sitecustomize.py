"""Python reads this as it starts where the folder is on its path: the clock of the process is a file's number off.

The number is in seconds, and what the file says counts at once. Only the time of day moves, as where an operator or a
time server sets it; `time.monotonic` does not.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_SET = Path(os.environ["UNDERSTUDY_TEST_CLOCK"])
_true = time.time


def _shifted() -> float:
    return _true() + float(_SET.read_text())


time.time = _shifted
