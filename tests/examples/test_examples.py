"""Every example runs as a newcomer runs it: as a program of its own, offline, in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "your_own_csv.ipynb"

SECONDS = 900
"""A bound and no measure: other tests may run beside these."""

SAID = {
    "1_attribute_a_text.py": ("rationale", "against it", "maps.html"),
    "2_compare_methods.py": ("integrated_gradients", "random", "characters of JSON"),
    "3_distil_and_read_the_verdict.py": ("rationale_gate", "→", "Published:", "Kept: student"),
    "4_openai_client.py": ("is validating_files", "→", "The student says: "),
    "5_few_labels_many_texts.py": ("teacher_labels", "<chapters: classifier"),
}


def test_every_script_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("[0-9]_*.py")} == set(SAID)


def test_the_list_names_every_example() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({name})" in listed for name in [*SAID, NOTEBOOK.name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all of them: what the first has made is there for the next."""
    return tmp_path_factory.mktemp("examples")


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("name", sorted(SAID))
def test_it_runs_and_says_what_it_is_about(name: str, folder: Path) -> None:
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [words for words in SAID[name] if words not in done.stdout] == []
    assert "Warning" not in done.stderr


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(SECONDS)
def test_the_notebook_shows_bars_the_report_and_heat_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": tmp_path}}).execute()
    shown = {cell["id"]: _html(cell) for cell in notebook.cells if cell["cell_type"] == "code"}
    assert "rows" in shown["distil"]
    assert "publish" in shown["distil"]
    assert "Did it work?" in shown["report"]
    assert "What decides the model" in shown["maps"]
    assert "The words behind the answers" in shown["ask"]
    assert (tmp_path / "student" / "config.json").is_file()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    assert [
        out["text"] for out in outputs if out["output_type"] == "stream"
    ] == []  # nothing of ours comes between: no log, no warning


def _html(cell: nbformat.NotebookNode) -> str:
    return "".join(out["data"].get("text/html", "") for out in cell["outputs"] if "data" in out)


def _environment(home: Path | None = None) -> dict[str, str]:
    """Offline, and for a notebook with the folders of its own that Jupyter writes to."""
    ours = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "UNDERSTUDY_ENGINES": ""}
    jupyter = {"JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"} if home else {}
    return {**os.environ, **ours, **{name: str(home / folder) for name, folder in jupyter.items() if home}}
