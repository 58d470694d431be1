from __future__ import annotations

import json
import os
import subprocess
import sys

SCRIPT = """
import logging, structlog
from understudy.logs import configure
configure("teacher")
structlog.get_logger().info("loaded", model="m")
logging.getLogger("uvicorn.error").warning("from a %s", "library")
secret = "a user's text"
try:
    raise KeyError("k")
except KeyError as error:
    structlog.get_logger().error("defect", exc_info=error)
"""


def _lines(form: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "UNDERSTUDY_LOG": form},
    )
    return done.stderr.splitlines()


def test_json_lines_hold_ours_and_the_libraries_alike() -> None:
    first, second, third = (json.loads(line) for line in _lines("json"))
    assert (first["service"], first["level"], first["event"], first["model"]) == ("teacher", "info", "loaded", "m")
    assert (second["level"], second["event"]) == ("warning", "from a library")
    assert third["exception"][0]["exc_type"] == "KeyError"
    assert "a user's text" not in json.dumps(third)


LATER = """
import os, sys, structlog
from understudy.logs import configure
configure("student", delay=float(sys.argv[1]))
log = structlog.get_logger()
"""


def _said(script: str, delay: float) -> list[str]:
    command = [sys.executable, "-c", LATER + script, str(delay)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [line.split()[-1] for line in done.stderr.splitlines()]


def test_an_error_is_written_at_once_with_all_before_it_though_lines_may_wait() -> None:
    assert _said("log.info('request', n=1); log.error('defect', n=2); log.info('request', n=3); os._exit(0)", 3600) == [
        "n=1",
        "n=2",
    ]


def test_lines_that_wait_are_written_when_the_process_ends() -> None:
    assert _said("[log.info('request', n=n) for n in range(3)]", 3600) == ["n=0", "n=1", "n=2"]


def test_lines_that_wait_are_written_a_moment_later_by_themselves() -> None:
    command = [sys.executable, "-c", LATER + "log.info('request', n=1); sys.stdin.read()", "0.05"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().split()[-1] == "n=1"  # while the process lives
        process.communicate(timeout=60)


def test_lines_that_wait_too_long_are_written_by_whoever_says_the_next_one() -> None:
    script = "from understudy import logs; logs._MOST_WAITING = 2; [log.info('r', n=n) for n in range(4)]; os._exit(0)"
    assert _said(script, 3600) == ["n=0", "n=1", "n=2"]


def test_work_goes_on_when_nobody_reads_the_log() -> None:
    script = "os.close(2); log.error('defect', n=1); os.write(1, b'alive'); os._exit(0)"
    done = subprocess.run([sys.executable, "-c", LATER + script, "0"], stdout=subprocess.PIPE, check=True, timeout=60)
    assert done.stdout == b"alive"


def test_lines_for_people_have_time_level_event_and_fields() -> None:
    first = _lines("text")[0].split()
    assert first[1:] == ["[info", "]", "loaded", "model=m"]
