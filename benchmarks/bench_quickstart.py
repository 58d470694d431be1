"""How long the quickstart takes after installation, and how much memory all of its processes use together.

    python benchmarks/bench_quickstart.py [--quick]

--quick trains a few steps of two arms. Writes `results/quickstart.json` (not with --quick); the last line is JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from understudy import quickstart
from understudy.client import OrchestratorClient
from understudy.evaluation.report import Report
from understudy.stack import Stack

RESULT = Path(__file__).parent / "results" / "quickstart.json"
LIMIT_SECONDS, LIMIT_MB = 360, 4000  # what the quickstart promises on two cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps, under a minute, nothing written")
    quick = parser.parse_args().quick
    memory = _Memory()
    memory.start()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home, Stack(quickstart.config(Path(home))) as stack:
        quickstart.run(stack, Console(), _job(quick))
        with OrchestratorClient(stack.orchestrator_url) as client:
            report = Report.model_validate(client.report(client.jobs()[0]["id"]))
    seconds = time.monotonic() - began
    memory.ended.set()
    memory.join()
    result = {
        "seconds": round(seconds),
        "share_of_time_limit": round(seconds / LIMIT_SECONDS, 2),
        "peak_mb": round(memory.peak),
        "share_of_memory_limit": round(memory.peak / LIMIT_MB, 2),
        "accuracy": {arm.recipe: round(arm.accuracy, 3) for arm in report.arms}
        | {
            "teacher": round(report.teacher.accuracy, 3),
            report.baseline.description: round(report.baseline.accuracy, 3),
        },
        "machine": f"{report.machine.cpu}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    if not quick:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def _job(quick: bool) -> dict[str, Any]:
    job: dict[str, Any] = copy.deepcopy(dict(quickstart.QUICKSTART_JOB))
    if quick:
        few = {"max_steps": 10}
        distillation = job["method"]["distillation"]
        distillation |= {"seeds": [0], "recipe": "finetune", "hyperparameters": few, "max_train_rows": 256}
        distillation["teacher"] |= {"hyperparameters": few}
    return job


class _Memory(threading.Thread):
    """The peak over time of the proportional set size, in MB, of this process and all below it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(5):
            total = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                with suppress(psutil.Error):
                    total += process.memory_full_info().pss
            self.peak = max(self.peak, total / 1e6)


if __name__ == "__main__":
    main()
