"""A process of the stack, started by a stack that is killed."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

PARENT = """
import sys, time
from understudy.process import Process
child = Process("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], {}, print)
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_process_ends_with_a_stack_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=10)
    for one in alive:
        one.kill()
    assert alive == []
