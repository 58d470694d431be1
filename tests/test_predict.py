"""`understudy predict` and `evaluate` as a user calls them, on tiny models in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from understudy import ask as asking
from understudy import cli
from understudy.artifacts import ArtifactStore
from understudy.errors import InvalidRequest, ModelError, ModelNotFound, NotFound, UnderstudyError, UnknownName
from understudy.evaluation.metrics import wilson
from understudy.schemas import Prediction, PredictionInput, TaskSpec
from understudy.serving.hf import HFEngine
from understudy.testing import LABELS, SENTENCES, TARGETS, tiny_classifier

Call = Callable[..., Result]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("predict") / "first")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("predict") / "second", seed=3)


@pytest.fixture
def call(tmp_path: Path) -> Call:
    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli.app, [*arguments, "--home", str(tmp_path / "home")], input=stdin)

    return run


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twelve rows with an answer, and a thirteenth whose text is empty."""
    path = tmp_path / "rows.jsonl"
    lines = [{"id": f"r{n}", "input": text, "output": TARGETS[n]} for n, text in enumerate(SENTENCES)]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"input": " ", "output": LABELS[0]}]))
    return path


def _lines(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_text_is_answered_by_the_model_in_a_folder_without_any_service(call: Call, model: Path) -> None:
    done = call("predict", SENTENCES[0], "--model", str(model), "--json")
    expected = HFEngine.load(model).predict([PredictionInput(input=SENTENCES[0])], explain=False, top_k=5)[0]
    (found,) = _lines(done)
    assert (found["input"], found["label"]) == (SENTENCES[0], expected.label)
    assert found["probability"] == pytest.approx(expected.probability)
    assert "words" not in found


def test_words_are_named_where_they_are_asked_for(call: Call, model: Path) -> None:
    done = call("predict", SENTENCES[0], "--model", str(model), "--explain", "--top-k", "2")
    assert done.stdout.count("[") == 2  # in brackets: there are no colours


def test_every_row_of_a_file_has_its_line_in_the_file_of_answers(
    call: Call, model: Path, rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    done = call("predict", str(rows), "--model", str(model), "--out", str(out))
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert done.exit_code == 0
    assert [one["line"] for one in found] == list(range(1, 14))
    assert [one["id"] for one in found[:12]] == [f"r{n}" for n in range(12)]
    assert "empty" in found[12]["error"]
    assert "12 rows answered" in done.stdout
    assert "line 13: input is empty" in " ".join(done.stdout.split())
    assert not list(tmp_path.glob("*.part"))


def test_the_file_of_answers_is_a_data_file(call: Call, model: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    call("predict", str(rows), "--model", str(model), "--out", str(out))
    judged = json.loads(call("evaluate", str(out), "--model", str(model), "--json").stdout)
    assert (judged["accuracy"]["value"], judged["rows"], judged["rejected_rows"]) == (1.0, 12, 1)


@pytest.mark.parametrize("content", ["one text\n\nanother text\n", '{"input": "one text"}\n{"text": "another text"}\n'])
def test_standard_input_is_texts_or_rows(call: Call, model: Path, content: str) -> None:
    found = _lines(call("predict", "-", "--model", str(model), "--json", stdin=content))
    assert [one["input"] for one in found] == ["one text", "another text"]


def test_no_answer_at_all_is_no_success(call: Call, model: Path) -> None:
    done = call("predict", "-", "--model", str(model), "--json", stdin='{"nothing": "here"}\n')
    assert done.exit_code == 1
    assert "input is missing" in _lines(done)[0]["error"]


def test_an_alias_names_a_model_of_the_store(call: Call, model: Path, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home" / "artifacts")
    artifact = store.publish("model", model)
    store.set_alias("production", artifact.id)
    assert (
        call("predict", "A text", "--json").stdout == call("predict", "A text", "--json", "--model", artifact.id).stdout
    )


@pytest.mark.parametrize(
    ("arguments", "kind", "param", "words"),
    [
        (["A text", "--model", "nowhere"], ModelNotFound, "--model", "neither an artifact id nor an alias"),
        (["A text", "--model", "MODEL", "--engine", "htf"], UnknownName, "--engine", "Did you mean 'hf'"),
        (["A text", "--model", "MODEL", "--engine", "ct2"], ModelError, "--engine", "published without"),
        (["rows.csv"], NotFound, "TEXT", "no file 'rows.csv'"),
        ([" "], InvalidRequest, "TEXT", "empty"),
        (["A text", "--url", "http://127.0.0.1:9"], UnderstudyError, None, "does not answer"),
    ],
)
def test_an_error_names_the_option(
    call: Call, model: Path, arguments: list[str], kind: type[UnderstudyError], param: str | None, words: str
) -> None:
    done = call("predict", *(str(model) if one == "MODEL" else one for one in arguments))
    assert isinstance(done.exception, kind)
    assert done.exception.param == param
    assert words in done.exception.message


class _Echo:
    """A student that notes how much it was given at once."""

    name, task = "echo", TaskSpec(kind="classification", labels=("yes", "no"))

    def __init__(self) -> None:
        self.most = 0

    def predict(self, inputs: Any, *, explain: bool, top_k: int) -> list[Prediction]:
        del explain, top_k
        self.most = max(self.most, len(inputs))
        return [Prediction(id=one.id, label="yes", probability=1.0) for one in inputs]


def test_no_more_than_a_few_rows_are_held_of_a_stream_without_end() -> None:
    taken = 0

    def stream() -> Iterator[tuple[int, PredictionInput | InvalidRequest]]:
        nonlocal taken
        while True:
            taken += 1
            yield taken, PredictionInput(input=f"text {taken}")

    student = _Echo()
    answers = asking.ask(student, stream())
    found = [next(answers).line for _ in range(1000)]
    assert found == list(range(1, 1001))
    assert student.most <= asking.CHUNK
    assert taken <= 1000 + asking.CHUNK


def test_an_error_of_the_model_names_the_line_of_the_row(tmp_path: Path) -> None:
    student = asking.load(str(tiny_classifier(tmp_path / "m")), store="")
    choices = PredictionInput(input="text", choices=("unknown", "labels"))
    with pytest.raises(UnknownName, match=r"^line 7: .*choose from"):
        list(asking.ask(student, [(3, PredictionInput(input="fine")), (7, choices)]))


@pytest.mark.parametrize(("name", "count"), [("rows.jsonl", 3), ("rows.csv", 3)])
def test_rows_are_counted_for_the_bar(tmp_path: Path, name: str, count: int) -> None:
    head = "input\n" if name.endswith("csv") else ""
    (tmp_path / name).write_text(head + '"a"\n' * count)
    assert asking.count_rows(tmp_path / name) == count


# --- evaluate --------------------------------------------------------------------------------------------------------


def test_the_accuracy_is_the_share_that_the_model_gets_right(call: Call, model: Path, rows: Path) -> None:
    engine = HFEngine.load(model)
    given = [
        one.label for one in engine.predict([PredictionInput(input=text) for text in SENTENCES], explain=False, top_k=5)
    ]
    right = sum(ours == theirs for ours, theirs in zip(given, TARGETS, strict=True))
    found = json.loads(call("evaluate", str(rows), "--model", str(model), "--json").stdout)
    low, high = wilson(right, 12)
    assert found["accuracy"] == pytest.approx({"value": right / 12, "low": low, "high": high})
    assert sum(map(sum, found["confusion"]["counts"])) == 12
    for one in found["labels"]:
        hits = sum(a == b == one["label"] for a, b in zip(given, TARGETS, strict=True))
        assert (one["rows"], one["answered"]) == (TARGETS.count(one["label"]), given.count(one["label"]))
        assert one["recall"]["value"] == pytest.approx(hits / one["rows"])
        assert one["precision"] == (pytest.approx(hits / one["answered"]) if one["answered"] else None)
    assert found["rejected"] == ["line 13: input is empty"]


def test_rows_that_the_model_has_no_label_for_are_named_and_wrong(call: Call, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"text,label\nA film,{LABELS[0]}\nA meal,delicious\n")
    done = call("evaluate", str(path), "--model", str(model), "--json")
    found = json.loads(done.stdout)
    assert found["outside_rows"] == 1
    assert found["outside"] == [{"line": 3, "output": "delicious"}]
    assert found["accuracy"]["value"] <= 0.5
    shown = " ".join(call("evaluate", str(path), "--model", str(model)).stdout.split())
    assert "1 row has an answer that is none of the model's labels, which counts as wrong: line 3: delicious" in shown


def test_two_models_are_compared_row_by_row_with_a_verdict(call: Call, model: Path, other: Path, rows: Path) -> None:
    done = call("evaluate", str(rows), "--model", str(model), "--against", str(other), "--json")
    found = json.loads(done.stdout)
    gap = found["accuracy"]["value"] - found["against_accuracy"]["value"]
    assert found["comparison"]["difference"] == pytest.approx(gap)
    assert found["comparison"]["verdict"] in ("BEATS", "DOES NOT BEAT", "INCONCLUSIVE")
    assert found["comparison"]["sentence"] in " ".join(
        call("evaluate", str(rows), "--model", str(model), "--against", str(other)).stdout.split()
    )


def test_a_model_does_not_beat_itself(call: Call, model: Path, rows: Path) -> None:
    done = call("evaluate", str(rows), "--model", str(model), "--against", str(model), "--json")
    assert json.loads(done.stdout)["comparison"]["difference"] == 0


def test_a_file_that_is_not_there_is_said(call: Call) -> None:
    done = call("evaluate", "nowhere.csv")
    assert isinstance(done.exception, NotFound)
    assert done.exception.param == "FILE"
