"""The Python of every page runs, in its order, against real services and tiny models; so do the calls of two of them.

A name of the hub stands for a tiny model of its kind, since nothing is downloaded here. Pages whose jobs take minutes
are in test_walks.py; two others have tests of their own.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stand.listening import Listening
from stand.pages import ROOT, blocks, commands, pages
from stand.server import Server

from services.orchestrator.settings import Settings as OrchestratorSettings
from services.student.app import create_app as student_app
from services.student.settings import Settings as StudentSettings
from services.teacher.app import create_app as teacher_app
from services.teacher.settings import Settings as TeacherSettings
from understudy.artifacts import ArtifactStore
from understudy.testing import SENTENCES, tiny_classifier, tiny_seq2seq

ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "docs/python.md": "tests/test_python.py",
    "docs/tutorial.md": "tests/docs/test_walks.py",
    "docs/howto/openai.md": "tests/docs/test_walks.py",
    "docs/engines.md": "tests/docs/test_walks.py",
}
HERE = ("attribution", "jobs", "protocols", "serving", "students")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("models") / "classifier", pooling="gate")


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_seq2seq(tmp_path_factory.mktemp("models") / "writer", ref="scratch:t5-2x16")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, classifier: Path, writer: Path) -> Iterator[Listening]:
    """The student service with the two models that docs/serving.md makes."""
    store = ArtifactStore(tmp_path_factory.mktemp("shop"))
    store.set_alias("production", store.publish("model", classifier).id)
    store.set_alias("writer", store.publish("model", writer).id)
    running = Listening(student_app(StudentSettings(artifacts=store.root, device="cpu"), store)).until_ready()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def teacher(classifier: Path) -> Iterator[Listening]:
    running = Listening(teacher_app(TeacherSettings(model=str(classifier), device="cpu"))).until_ready()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def orchestrator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(OrchestratorSettings(home=tmp_path_factory.mktemp("home")))
    yield running
    running.stop()


def run(page: str, replaced: dict[str, str], **names: Any) -> dict[str, Any]:
    """Run the blocks of a page one after the other, as a reader would; returns what they have made."""
    found = [block for block in blocks(ROOT / "docs" / f"{page}.md") if block.language == "python" and not block.reason]
    assert found
    for block in found:
        text = block.text
        for written, real in replaced.items():
            text = text.replace(written, real)
        exec(compile(text, str(block), "exec"), names)
    return names


def test_every_page_with_python_is_run_somewhere() -> None:
    with_python = {
        str(path.relative_to(ROOT))
        for path in pages()
        if any(block.language == "python" and not block.reason for block in blocks(path))
    }
    assert with_python == {*ELSEWHERE, *(f"docs/{name}.md" for name in HERE)}
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def test_attribution(classifier: Path) -> None:
    made = run("attribution", {"path/or/hub-name": str(classifier)})
    assert made["page"].startswith("<!doctype html>")


def test_students(writer: Path) -> None:
    names = {"texts": list(SENTENCES), "targets": ["positive", "negative"] * (len(SENTENCES) // 2)}
    made = run("students", {"google/flan-t5-small": str(writer)}, **names)
    assert made["model"].config.num_layers == 2


def test_jobs(orchestrator: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"input": f"room {at}", "output": "warm" if at % 2 else "cold"} for at in range(60)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = run("jobs", {"http://localhost:8000": orchestrator.url})
    assert made["job"].status == "validating_files"


def test_protocols(teacher: Listening, classifier: Path) -> None:
    replaced = {"localhost:8001": teacher.address, "/tmp/tiny": str(classifier)}
    assert run("protocols", replaced)["label"] is not None
    _call("protocols", replaced)


def test_serving(student: Listening) -> None:
    replaced = {"localhost:8002": student.address}
    made = run("serving", replaced)
    assert len(made["choice"].words) == 3
    _call("serving", replaced)


def _call(page: str, replaced: dict[str, str]) -> None:
    """Ask what the page's calls to this service ask: each is answered, or refused as the page says."""
    asked = 0
    for block in blocks(ROOT / "docs" / f"{page}.md"):
        for words in commands(block.text) if block.language == "sh" else ():
            if words[0] != "curl" or not any(address in word for word in words for address in replaced):
                continue
            for written, real in replaced.items():
                words = [word.replace(written, real) for word in words]
            done = subprocess.run(
                [*words, "-s", "-o", "/dev/null", "-w", "%{http_code}"], capture_output=True, text=True, check=True
            )
            late = any("X-Request-Timeout" in word for word in words)
            assert done.stdout == ("504" if late else "200"), words
            asked += 1
    assert asked > 2
