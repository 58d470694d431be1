"""Stages for the tests of child processes, importable by name there. Plain JSON in and out, like the real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from understudy.errors import UnknownName


def echo(spec: Any, out: Path, emit: Any) -> Any:
    for step in range(3):
        emit({"step": step})
    (out / "seen").write_text("here")
    return {"spec": spec, "pid": os.getpid(), "group": os.getpgid(0), "torch": "torch" in sys.modules}


def refuse(_: Any, __: Path, ___: Any) -> Any:
    raise UnknownName.among("recipe", "salency", ["saliency", "finetune"], param="recipe")


def crash(_: Any, __: Path, ___: Any) -> Any:
    raise ZeroDivisionError("a defect")


def die(spec: Any, _: Path, __: Any) -> Any:
    os.kill(os.getpid(), getattr(signal, spec["signal"]))
    time.sleep(60)


def leave(_: Any, __: Path, ___: Any) -> Any:
    os._exit(3)


def sleep(spec: Any, out: Path, emit: Any) -> Any:
    """Sleep with a child of its own, and deaf to SIGTERM where asked."""
    if spec.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen(["sleep", "300"])
    (out / "pids").write_text(f"{os.getpid()} {grandchild.pid}")
    emit({"started": True})
    time.sleep(300)


def threads(_: Any, __: Path, ___: Any) -> Any:
    import torch

    return {"threads": torch.get_num_threads(), "environment": os.environ["OMP_NUM_THREADS"]}
