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


def test_lines_for_people_have_time_level_event_and_fields() -> None:
    first = _lines("text")[0].split()
    assert first[1:] == ["[info", "]", "loaded", "model=m"]
