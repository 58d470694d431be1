"""Peak resident memory over the loaded model, in MiB, of one batch of 32 texts of 128 tokens and answers of 8.

    python memory.py FOLDER {forward,saliency}

A process of its own, so that nothing that was freed before can be used again. Linux alone tells a peak since a moment.
The last line is the figure.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from understudy.attribution.methods import make_method
from understudy.models.base import Adapter, Batch
from understudy.models.load import load_adapter
from understudy.models.text import Encoded

__all__ = ["measure", "peak_over"]

ROWS, INPUT, OUTPUT = 32, 128, 8


def measure(folder: Path, what: str) -> float:
    """Run this file in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, str(folder), what], check=True, capture_output=True, text=True, timeout=300
    )
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    folder, what = sys.argv[1:]
    torch.set_num_threads(1)
    adapter = load_adapter(folder)
    _explain(adapter, _batch(adapter, 1, 8, 2), what)  # what is loaded or allocated once is no part of the figure
    batch = _batch(adapter, ROWS, INPUT, OUTPUT)
    print(peak_over(lambda: _explain(adapter, batch, what)))


def peak_over(work: Callable[[], object]) -> float:
    """MiB that this process holds at most while it works, over what it holds before."""
    before = _start()
    work()
    return _status("VmHWM") - before


def _batch(adapter: Adapter, rows: int, width: int, answer: int) -> Batch:
    draw = torch.Generator().manual_seed(0)
    size = adapter.model.config.vocab_size
    ids = torch.randint(3, size, (rows, width), generator=draw).tolist()
    encoded = [Encoded(row, [(place, place + 1) for place in range(width)]) for row in ids]
    batch = adapter.collate(encoded, ["x" * width] * rows, ["x"] * rows)
    return replace(batch, labels=torch.randint(3, size, (rows, answer), generator=draw))


def _explain(adapter: Adapter, batch: Batch, what: str) -> None:
    if what == "saliency":
        make_method("saliency", {})(adapter, batch)
        return
    with torch.inference_mode():
        adapter.score(adapter.embed(batch.ids), batch.mask, batch.labels)


def _start() -> float:
    """Give back what is free, let the peak count from here, and say what is resident."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
