"""The stock fuzzer of OpenAPI documents against the running service: no 5xx, and no answer that the document lacks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stand.listening import Listening

from services.student.app import create_app
from services.student.settings import Settings

pytest.importorskip("schemathesis")

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "missing_required_header",
    "ignored_auth",
)
"""All but those that take a schema for the whole truth: that a model lacks a label, or that one is named twice, is said
by an answer of 400 or 422, and by no schema."""


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_the_documents_promises_hold(store: Any, publish: Callable[..., str], tmp_path: Path) -> None:
    publish("one", "production")
    publish("two", "shadow")
    publish("writer", "writer")
    settings = Settings(artifacts=store.root, device="cpu", shadow_share=1.0, api_keys=("sk-one",))
    with Listening(create_app(settings, store)) as listening:
        url = f"{listening.until_ready().url}/openapi.json"
        # A deadline of the fuzzer's own would be met by 504, which is a promise kept and looks like a defect to it.
        headers = ("Authorization: Bearer sk-one", "X-Request-Timeout: 60")
        options = [part for header in headers for part in ("-H", header)]
        options += ["--checks", ",".join(CHECKS), "--max-examples", "5", "--seed", "6", "--no-color"]
        options += ["--phases", "examples,coverage,fuzzing", "--generation-database", "none"]
        found = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", url, *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=280,
        )
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    assert "Tested: 22" in found.stdout
