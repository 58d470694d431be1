"""`import understudy` as people use it in a script: attribute, compare, distill and load, in one process."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from stand.processes import interruptible

import understudy
from services import inline
from understudy.artifacts import ArtifactStore
from understudy.attribution.attribute import attribute as library
from understudy.client import OrchestratorClient
from understudy.errors import Conflict, InvalidRequest, ModelNotFound, NotFound, UnderstudyError, UnknownName
from understudy.jobs import submit, watch
from understudy.models.load import load_adapter
from understudy.python.distillation import Distilled
from understudy.python.tables import write_rows
from understudy.schemas import AttributionExample, AttributionOptions
from understudy.stack import Stack, StackConfig, hold_home
from understudy.testing import LABELS, SENTENCES, TARGETS, tiny_classifier

ROOT = Path(__file__).parents[1]
HOSTILE = "<script>alert('x')</script>"
SMALL: dict[str, Any] = {
    "teacher": "scratch:bert-1x32",
    "finetune_teacher": True,
    "teacher_max_steps": 20,
    "student": "scratch:bert-1x16",
    "recipe": "rationale_gate",
    "max_steps": 10,
    "seeds": 1,
    "progress": False,
}


def rows(count: int = 60) -> list[dict[str, str]]:
    """The label stands in the text, so that anybody can learn it; one row would run in a page that let it."""
    things = ("film", "meal", "room", "book", "train", HOSTILE)
    texts = (f"The {things[i % 6]} number {i} was {LABELS[i % 3]} I think" for i in range(count))
    return [{"input": text, "output": LABELS[i % 3]} for i, text in enumerate(texts)]


@pytest.fixture(autouse=True)
def _no_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_ENGINES", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("python") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return understudy.load(folder, device="cpu")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Distilled, list[psutil.Process]]:
    """A distillation, and the processes that it has left running."""
    before = _processes(os.getpid())  # of other tests
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERSTUDY_ENGINES", "")
        found = understudy.distill(rows(), home=tmp_path_factory.mktemp("distilled"), **SMALL)
    return found, [one for one in _processes(os.getpid()) if one not in before]


@pytest.fixture
def distilled(ran: tuple[Distilled, list[psutil.Process]]) -> Distilled:
    return ran[0]


# --- the door --------------------------------------------------------------------------------------------------------


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, understudy; print(dir(understudy)); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, modules = done.stdout.splitlines()
    assert {"torch", "rich", "pydantic", "httpx", "services"} & set(modules.split()) == set()
    assert all(f"'{name}'" in names for name in understudy.__all__)


def test_naming_a_function_loads_no_torch() -> None:
    code = "import sys; from understudy import attribute, compare, distill, load; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "transformers", "celery", "sqlalchemy", "fastapi"} & set(done.stdout.split()) == set()


def test_an_unknown_name_is_none_of_the_package() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'atribute'"):
        _ = understudy.atribute  # type: ignore[attr-defined]


# --- attribute -------------------------------------------------------------------------------------------------------


def test_it_finds_what_the_library_finds(folder: Path, model: Any) -> None:
    found = understudy.attribute(SENTENCES[:3], model=model, method="integrated_gradients:n_steps=5", top_k=2)
    options = AttributionOptions(method="integrated_gradients", settings={"n_steps": 5}, top_k=2)
    examples = [AttributionExample(input=text) for text in SENTENCES[:3]]
    assert list(found) == library(load_adapter(str(folder), device="cpu"), examples, options)
    assert found.rationales == [[word.text for word in one.rationale] for one in found]
    assert found.answer.settings["n_steps"] == 5


def test_a_text_a_file_rows_and_a_table_are_explained_alike(model: Any, tmp_path: Path) -> None:
    given = [{"input": text, "output": target} for text, target in zip(SENTENCES, TARGETS, strict=True)]
    path = write_rows(given, tmp_path / "rows.jsonl", "train")
    whole = understudy.attribute(given, model=model, target="gold")
    for other in (path, str(path), pa.Table.from_pylist(given), iter(given)):
        assert list(understudy.attribute(other, model=model, target="gold")) == list(whole)
    assert understudy.attribute(SENTENCES[0], model=model)[0].words == understudy.attribute(given, model=model)[0].words
    assert [one.explained for one in whole] == list(TARGETS)
    assert len(understudy.attribute(path, model=model, limit=4)) == 4


def test_an_adapter_of_the_library_is_a_model_too(folder: Path, model: Any) -> None:
    adapter = load_adapter(str(folder), device="cpu")
    assert list(understudy.attribute("A film.", model=adapter)) == list(understudy.attribute("A film.", model=model))


def test_a_hostile_text_is_text_in_a_notebook(model: Any) -> None:
    shown = understudy.attribute(f"A film {HOSTILE}", model=model, label="positive")._repr_html_()
    assert shown.startswith('<iframe sandbox=""')
    assert "<script" not in shown
    page = html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1])  # type: ignore[index]
    assert "<script" not in page
    assert "script" in page


def test_in_a_terminal_the_rationale_stands_in_brackets(model: Any) -> None:
    found = understudy.attribute(SENTENCES[:5], model=model, top_k=1)
    assert f"[{found[0].rationale[0].text}]" in repr(found)
    assert repr(found).endswith("and 2 more")


def test_what_was_found_is_saved_as_a_page_and_for_programs(model: Any, tmp_path: Path) -> None:
    found = understudy.attribute(SENTENCES[:2], model=model)
    assert json.loads(found.save(tmp_path / "a.json").read_text()) == json.loads(found.to_json())
    assert len(found.save(tmp_path / "a.jsonl").read_text().splitlines()) == 2
    assert "<!doctype html>" in found.save(tmp_path / "a.html").read_text()
    with pytest.raises(UnknownName) as caught:
        found.save(tmp_path / "a.txt")
    assert caught.value.param == "path"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"top_k": 0}, "top_k"),
        ({"method": "magic"}, "method"),
        ({"settings": {"n_steps": 5}}, "settings"),
        ({"target": "label"}, None),
        ({"label": "delicious"}, "label"),
        ({"template": "no place"}, "template"),
        ({"limit": 0}, "limit"),
        ({"batch": 0}, "batch"),
        ({"model": 7}, "model"),
        ({"model": "no/such/folder"}, "model"),
        ({"inputs": 7}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": ["a film", 7]}, "inputs"),
        ({"inputs": [{"text": ""}]}, "inputs"),
        ({"inputs": Path("nowhere.csv")}, "inputs"),
        ({"inputs": "nowhere.csv"}, "inputs"),
    ],
)
def test_an_error_names_the_parameter(model: Any, wrong: dict[str, Any], param: str | None) -> None:
    asked = {"inputs": "A film.", "model": model} | wrong
    with pytest.raises(UnderstudyError) as caught:
        understudy.attribute(asked.pop("inputs"), **asked)
    assert caught.value.param == param


def test_an_error_about_one_of_several_rows_says_which(model: Any) -> None:
    for second, target in ({"output": "positive"}, "predicted"), ({"input": "A meal.", "output": "tasty"}, "gold"):
        with pytest.raises(InvalidRequest, match="row 2") as caught:
            understudy.attribute([{"input": "A film.", "output": "positive"}, second], model=model, target=target)
        assert caught.value.param == "inputs"


def test_methods_are_compared_beside_random_words(model: Any) -> None:
    found = understudy.compare(list(SENTENCES), model=model, methods=["saliency", "occlusion"])
    assert [row.method for row in found.table.rows[:2]] == ["saliency", "occlusion"]
    assert "random" in repr(found)
    assert found.sentences
    assert "saliency" in found._repr_html_()


# --- load and predict ------------------------------------------------------------------------------------------------


def test_a_loaded_model_answers_and_names_its_reasons(model: Any) -> None:
    found = model.predict(SENTENCES[:2], explain=True, top_k=2)
    assert found.labels == [one.label for one in found]
    assert all(label in LABELS for label in found.labels)
    assert [len(one.words) for one in found] == [2, 2]
    assert model.predict(SENTENCES[0])[0].probability == pytest.approx(found[0].probability)
    assert "The words behind the answers" in found._repr_html_()
    assert model.predict("A film.")._repr_html_() is None


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"texts": ["fine", " "]}, "texts"),
        ({"texts": [7]}, "texts"),
        ({"top_k": 0}, "top_k"),
        ({"labels": ["a"]}, "labels"),
    ],
)
def test_a_wrong_question_is_told_by_its_parameter(model: Any, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(UnderstudyError) as caught:
        model.predict(**{"texts": "A film.", **wrong})
    assert caught.value.param == param


def test_a_model_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        understudy.load(tmp_path / "nothing")


# --- rows ------------------------------------------------------------------------------------------------------------


def test_gaps_of_a_table_are_left_out_and_numbers_are_plain(tmp_path: Path) -> None:
    class Number:
        """As numpy's."""

        def item(self) -> int:
            return 4

    table = [{"input": "a", "output": Number(), "rationale": float("nan"), "choices": None}]
    assert json.loads(write_rows(table, tmp_path / "rows", "train").read_text()) == {"input": "a", "output": 4}


@pytest.mark.parametrize("wrong", [[], [7], [{"input": object()}], {"input": "a"}, 7])
def test_rows_that_are_none_are_told_by_their_parameter(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        write_rows(wrong, tmp_path / "rows", "validation")
    assert caught.value.param == "validation"


# --- distill ---------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_a_job_in_this_process_has_a_report_a_student_and_controls(distilled: Distilled) -> None:
    arms = {arm.recipe for arm in distilled.report.arms}
    assert arms == {"finetune", "rationale_gate", "rationale_gate+random_rationale"}
    assert len(distilled.verdicts) == 2
    assert distilled.job["status"] == "succeeded"
    assert (distilled.model / "provenance.json").is_file()
    assert ArtifactStore(str(distilled.home / "artifacts")).resolve("production") == distilled.model.name
    assert distilled.report.comparisons[0].verdict in repr(distilled)


@pytest.mark.timeout(600)
def test_its_student_answers_is_saved_and_is_found_by_its_alias(distilled: Distilled, tmp_path: Path) -> None:
    answers = distilled.predict(["The film was positive I think"], explain=True)
    saved = distilled.save(tmp_path / "student")
    for other in (understudy.load(saved), understudy.load("production", home=distilled.home)):
        again = other.predict(["The film was positive I think"], explain=True)
        assert again.labels == answers.labels
        assert again[0].probability == pytest.approx(answers[0].probability)
    with pytest.raises(InvalidRequest) as caught:
        distilled.save(saved)
    assert caught.value.param == "folder"


@pytest.mark.timeout(600)
def test_its_report_shows_hostile_rows_as_text(distilled: Distilled) -> None:
    assert HOSTILE in "".join(one.input for one in distilled.report.examples)
    assert "<script" not in distilled._repr_html_()
    assert "<script" not in distilled.to_html()


@pytest.mark.timeout(600)
def test_nothing_of_it_is_left_running(ran: tuple[Distilled, list[psutil.Process]]) -> None:
    distilled, left = ran
    assert left == []
    with hold_home(distilled.home):  # nobody else holds it
        pass


@pytest.mark.parametrize(
    ("wrong", "error", "param"),
    [
        ({"train": "nowhere.csv"}, NotFound, "train"),
        ({"train": [7]}, InvalidRequest, "train"),
        ({"unlabelled": [{"input": {1, 2}}]}, InvalidRequest, "unlabelled"),
        ({"seeds": 0}, InvalidRequest, "seeds"),
        ({"workers": 0}, InvalidRequest, "workers"),
        ({"attribution": "magic"}, UnknownName, "attribution"),
    ],
)
def test_a_wrong_parameter_is_named_before_anything_starts(
    wrong: dict[str, Any], error: type[UnderstudyError], param: str
) -> None:
    asked = {"train": rows(), **SMALL, **wrong}
    with pytest.raises(error) as caught:
        understudy.distill(asked.pop("train"), **asked)
    assert caught.value.param == param


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"recipe": "magic"}, "recipe"),
        pytest.param({"finetune_teacher": False}, "teacher", marks=[pytest.mark.slow, pytest.mark.e2e]),
    ],
)
def test_what_the_orchestrator_refuses_is_named_as_its_parameter(wrong: dict[str, Any], param: str) -> None:
    before = set(Path(os.environ.get("TMPDIR", "/tmp")).glob("understudy-*"))
    with pytest.raises(UnderstudyError) as caught:
        understudy.distill(rows(), **{**SMALL, **wrong})
    assert caught.value.param == param
    assert set(Path(os.environ.get("TMPDIR", "/tmp")).glob("understudy-*")) <= before


def test_a_home_that_a_stack_uses_is_refused(tmp_path: Path) -> None:
    with hold_home(tmp_path), pytest.raises(Conflict, match="another folder with home"):
        understudy.distill(rows(), home=tmp_path, **SMALL)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_second_one_beside_it_is_refused_and_what_a_killed_one_left_is_cancelled(
    distilled: Distilled, tmp_path: Path
) -> None:
    job = {"model": distilled.job["model"], "method": {"type": "supervised"}, "metadata": inline.MADE_BY}
    files = {"training_file": write_rows(rows(), tmp_path / "rows.jsonl", "train")}
    with inline.running(tmp_path / "home", workers=1) as place:
        with pytest.raises(Conflict, match="in this process"):
            understudy.distill(rows(), **SMALL)
        with OrchestratorClient(place.url, api_key=place.key) as client:
            ids = {field: client.upload(path) for field, path in files.items()}
            left = client.create_job(job | ids)["id"]  # nobody waits for it: it is unfinished when the block ends
    with (
        inline.running(tmp_path / "home", workers=1) as place,
        OrchestratorClient(place.url, api_key=place.key) as client,
    ):
        assert client.job(left)["status"] == "cancelled"


SCRIPT = """
import understudy
print("the script begins", flush=True)
rows = [{{"input": f"The film number {{i}} was {{l}}", "output": l}} for i in range(30) for l in ("good", "bad")]
understudy.distill(rows, teacher="scratch:bert-1x32", finetune_teacher=True, student="scratch:bert-1x16",
                   recipe="rationale_gate", max_steps=100_000, home={home!r}, progress=False)
"""


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_ctrl_c_cancels_the_job_and_leaves_no_process(tmp_path: Path) -> None:
    """A script without a guard: its children must not run it again."""
    (tmp_path / "script.py").write_text(SCRIPT.format(home=str(tmp_path / "home")))
    options: dict[str, Any] = {"stdout": -1, "stderr": -1, "text": True, "preexec_fn": interruptible}
    with subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, **options) as running:
        log, children = tmp_path / "home" / "understudy.log", []
        while not (log.is_file() and re.search("item_claimed.*phase=train", log.read_text())):
            assert running.poll() is None, running.stderr.read()  # type: ignore[union-attr]
            time.sleep(0.1)
        while len(children) < 2:
            children = _processes(running.pid)
        running.send_signal(signal.SIGINT)
        said, complaint = running.communicate(timeout=120)
    assert said == "the script begins\n"
    assert complaint.rstrip().endswith("KeyboardInterrupt")
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    with sqlite3.connect(tmp_path / "home" / "understudy.db") as database:
        assert database.execute("select status from jobs").fetchall() == [("cancelled",)]
    database.close()


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_the_report_has_the_figures_of_the_same_job_on_a_stack(distilled: Distilled, tmp_path: Path) -> None:
    given = distilled.job["method"]["distillation"]
    method = {"type": "distillation", "distillation": {key: one for key, one in given.items() if one is not None}}
    job = {"model": distilled.job["model"], "method": method}
    files = {"training_file": write_rows(rows(), tmp_path / "rows.jsonl", "train")}
    config = StackConfig(tmp_path / "home", port=0, teacher_port=0, student_port=0)
    with Stack(config) as stack, OrchestratorClient(stack.orchestrator_url) as client:
        report = watch(client, submit(client, files, job), lambda _: None, stack.check)
    assert _figures(report) == _figures(distilled.report)


def _figures(report: Any) -> dict[str, Any]:
    """All that depends on the job alone, and not on the time that things took or where they are."""
    told = report.model_dump(mode="json")
    arms = [
        {key: arm[key] for key in ("recipe", "accuracy", "low", "high", "validation_accuracy", "parameters")}
        | {"seeds": [(one["seed"], one["accuracy"], one["artifact"], one["steps"]) for one in arm["seeds"]]}
        for arm in told["arms"]
    ]
    kept = ("comparisons", "rationale", "rows", "baseline", "calibration", "words", "examples")
    return {"arms": arms, "teacher": told["teacher"]["accuracy"], **{key: told[key] for key in kept}}


def _processes(pid: int) -> list[psutil.Process]:
    """What a process has started that is no part of Python itself: its resource tracker ends with it."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if not any("resource_tracker" in part for part in child.cmdline())]


# --- the page about it -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_the_python_of_its_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_classifier(tmp_path / "model", labels=("files", "networking"))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("path/or/hub-name", str(folder)), names)
    assert (tmp_path / "maps.html").is_file()
    assert len(names["answers"]) == 2
