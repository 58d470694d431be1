"""The walks through the whole: what tutorial.md and openai.md tell a reader to type is typed, as it stands there.

Only ports are others, since this machine may have a stack already. engines.md is here because an export takes its time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from stand.pages import ROOT, Block, blocks

from understudy.client import OrchestratorClient
from understudy.schemas import Example
from understudy.stack import Stack, StackConfig
from understudy.testing import SENTENCES, TARGETS, tiny_classifier

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.xdist_group("walks")]

SECONDS = 1800
"""A bound and no measure: it trains twelve students and their teachers, beside whatever else the machine does."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reader")


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[Stack]:
    """What `understudy up` runs in the reader's folder, on free ports."""
    with Stack(StackConfig(folder / ".understudy", port=0, teacher_port=0, student_port=0)) as running:
        yield running


def type_in(block: Block, folder: Path, stack: Stack) -> str:
    """Run a block as it stands, but for the ports. Returns what it prints."""
    text = block.text
    for port, url in ((8000, stack.orchestrator_url), (8001, stack.teacher_url), (8002, stack.student_url)):
        text = re.sub(rf"(?:http://)?localhost:{port}", url, text)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-"] if block.language == "python" else ["bash", "-eu", "-o", "pipefail"]
    done = subprocess.run(
        command, input=text, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(SECONDS)
def test_the_tutorial_from_its_file_to_the_last_alias(folder: Path, stack: Stack) -> None:
    page = [one for one in blocks(ROOT / "docs" / "tutorial.md") if one.language in ("sh", "python") and not one.reason]
    said = {}
    for block in page:
        if block.text.strip() != "understudy up":
            said[block.text] = type_in(block, folder, stack)
    everything = "\n".join(said.values())
    assert re.search(r"rationale_gate (BEATS|DOES NOT BEAT|against) finetune", everything)
    assert re.search(r"logit_kd\+teacher_labels (BEATS|DOES NOT BEAT|against) finetune", everything)
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(answers) == len((folder / "more.csv").read_text(encoding="utf-8").splitlines()) - 1
    assert {one["label"] for one in answers} <= {"files", "networking", "concurrency", "math and time"}
    with OrchestratorClient(stack.orchestrator_url) as orchestrator:
        assert {"production", "canary"} <= {job["alias"] for job in orchestrator.jobs()}
    assert len(list((folder / ".understudy").glob("ftjob-*.html"))) == 2


@pytest.mark.timeout(SECONDS)
def test_the_stock_client_of_openai_from_upload_to_answer(folder: Path, stack: Stack) -> None:
    page = [one for one in blocks(ROOT / "docs" / "howto" / "openai.md") if one.language == "python"]
    whole = Block("docs/howto/openai.md", 1, "python", "\n".join(one.text for one in page), None)
    said = type_in(whole, folder, stack)
    assert re.search(r"^succeeded model-\w+$", said, re.MULTILINE)
    assert re.search(r"^(warm|cold) \[", said, re.MULTILINE)


@pytest.mark.timeout(SECONDS)
def test_engines_without_a_job(tmp_path: Path) -> None:
    (block,) = [one for one in blocks(ROOT / "docs" / "engines.md") if one.language == "python"]
    pairs = zip(SENTENCES, TARGETS, strict=False)
    rows = [Example(id=str(at), input=text, output=answer) for at, (text, answer) in enumerate(pairs)]
    folder = Path(shutil.copytree(tiny_classifier(tmp_path / "model", pooling="gate"), tmp_path / "student"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own
        exec(block.text, {"folder": folder, "validation_rows": rows})
    assert (folder / "engines.json").is_file()
