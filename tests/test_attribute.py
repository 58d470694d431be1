"""`understudy attribute` as a user calls it, on tiny models in this process."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from understudy import cli, explain
from understudy.artifacts import ArtifactStore
from understudy.attribution.attribute import attribute
from understudy.attribution.methods import METHODS, make_method, settings_of
from understudy.client import TeacherClient
from understudy.commands import attribute as command
from understudy.commands import maps
from understudy.errors import InvalidRequest, ModelError
from understudy.explain import InProcess, Service
from understudy.models.load import load_adapter
from understudy.schemas import Attribution, AttributionExample, AttributionOptions, AttributionResponse
from understudy.testing import LABELS, SENTENCES, TARGETS, FakeTeacher, tiny_classifier, tiny_seq2seq

DOCUMENTED = (Path(__file__).parents[1] / "docs" / "attribution.md").read_text(encoding="utf-8")

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_classifier(tmp_path_factory.mktemp("model")))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Run the command as `main` does: its exit status, and what it printed on either stream."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["understudy", "attribute", *arguments, "--home", str(tmp_path / "home")])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twelve rows with highlights on each first word; the third of them is broken."""
    path = tmp_path / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, (text, output) in enumerate(zip(SENTENCES, TARGETS, strict=True)):
            row: dict[str, Any] = {"id": f"r{number}", "input": text, "output": output, "highlights": [[0, 5]]}
            file.write(json.dumps(row if number != 2 else {"id": "r2", "output": "neutral"}) + "\n")
    return path


def test_a_text_is_printed_with_its_rationale_and_the_answer(call: Call, model: str) -> None:
    status, shown, _ = call(SENTENCES[0], "--model", model, "--top-k", "2")
    (found,) = attribute(
        load_adapter(model), [AttributionExample(input=SENTENCES[0])], AttributionOptions(top_k=2, method="saliency")
    )
    assert status == 0
    assert re.findall(r"\[(.*?)\]", shown) == [word.text for word in found.rationale]
    assert " ".join(re.sub(r"[\[\]]", "", shown).split()).startswith(SENTENCES[0])
    assert f"answer     {found.prediction}" in shown


def test_json_is_the_answer_of_the_service(call: Call, model: str) -> None:
    arguments = ("--method", "integrated_gradients:n_steps=3", "--faithfulness", "--against", "neutral", "--json")
    status, shown, _ = call(SENTENCES[0], "--model", model, "--label", "negative", *arguments)
    answer = AttributionResponse.model_validate_json(shown)
    asked = AttributionOptions(
        method="integrated_gradients",
        settings={"n_steps": 3},
        target="label",
        label="negative",
        against="neutral",
        faithfulness=True,
    )
    assert status == 0
    assert (answer.model, answer.target, answer.precision) == (model, "label", "float32")
    assert (answer.method, answer.settings) == ("integrated_gradients", {"n_steps": 3})
    assert list(answer.results) == attribute(load_adapter(model), [AttributionExample(input=SENTENCES[0])], asked)


def test_a_model_of_the_stack_is_known_by_its_alias(call: Call, model: str, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home" / "artifacts")
    store.set_alias("production", store.publish("model", Path(model)).id)
    status, shown, _ = call(SENTENCES[0], "--model", "production", "--json")
    assert status == 0
    assert json.loads(shown)["model"] == "production"


def test_the_words_of_a_rationale_are_chosen_as_the_options_say(call: Call, model: str) -> None:
    def words(*options: str) -> list[str]:
        _, shown, _ = call("The film is dull.", "--model", model, "--json", *options)
        return [word["text"] for word in json.loads(shown)["results"][0]["rationale"]]

    assert len(words("--select", "top_share", "--top-share", "0.5")) == 2
    assert len(words("--select", "threshold", "--threshold", "1")) == 1
    assert words("--ignore", "stop_words,punctuation") == ["film", "dull"]
    assert words("--ignore", "") == ["The", "film", "is", "dull", "."]


def test_the_score_of_a_word_is_made_of_its_tokens_as_the_option_says(call: Call, model: str) -> None:
    def scores(how: str) -> list[float]:
        _, shown, _ = call("undiscovered films", "--model", model, "--json", "--aggregation", how)
        return [word["score"] for word in json.loads(shown)["results"][0]["words"]]

    assert scores("sum")[0] > scores("mean")[0]
    assert scores("sum")[0] > scores("max")[0]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_columns_need_no_answer_unless_it_is_explained(call: Call, model: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("text\nA dull film.\nThe best meal.\n", encoding="utf-8")
    status, shown, error = call(str(path), "--model", model, "--json")
    assert (status, error) == (0, "")
    assert len(json.loads(shown)["results"]) == 2
    status, _, error = call(str(path), "--model", model, "--target", "gold")
    assert status == 1
    assert "line 2" in error


def test_labels_are_a_list_with_or_without_spaces(call: Call, tmp_path: Path) -> None:
    folder = tiny_seq2seq(tmp_path / "seq2seq")
    _, shown, _ = call(SENTENCES[0], "--model", str(folder), "--labels", "good, very bad,so so", "--json")
    assert set(json.loads(shown)["results"][0]["probabilities"]) == {"good", "very bad", "so so"}


def test_each_method_of_several_is_named(call: Call, model: str) -> None:
    methods = ("--method", "saliency:norm=l2", "--method", "random")
    _, shown, _ = call(SENTENCES[0], "--model", model, *methods)
    assert shown.index("saliency (norm l2)") < shown.index("random (seed")
    _, shown, _ = call(SENTENCES[0], "--model", model, *methods, "--json")
    assert [json.loads(line)["method"] for line in shown.splitlines()] == ["saliency", "random"]


def test_the_precision_is_the_models(call: Call, model: str) -> None:
    _, shown, _ = call(SENTENCES[0], "--model", model, "--dtype", "bfloat16", "--json")
    assert json.loads(shown)["precision"] == "bfloat16"


def test_a_file_becomes_a_line_for_each_row_and_a_summary(call: Call, model: str, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps.jsonl"
    status, shown, _ = call(str(rows), "--model", model, "--target", "gold", "--faithfulness", "--out", str(out))
    found = [Attribution.model_validate_json(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert status == 0
    assert [one.id for one in found] == [f"r{i}" for i in range(12) if i != 2]
    assert [one.explained for one in found] == [target for i, target in enumerate(TARGETS) if i != 2]
    assert len(re.findall("^  rationale ", shown, re.MULTILINE)) == 3
    right = sum(one.prediction == one.explained for one in found) / 11
    assert f"11 rows explained, {right:.1%} answered as the file says" in shown
    mean = sum(one.faithfulness.comprehensiveness for one in found if one.faithfulness) / 11
    assert re.search(rf"Comprehensiveness +{mean:.3f}".replace("-", "−"), shown)
    assert "1 row was set aside: line 3: input is missing" in " ".join(shown.split())
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_a_page_has_all_rows_with_all_methods(call: Call, model: str, rows: Path, tmp_path: Path) -> None:
    page = tmp_path / "maps.html"
    methods = ("--method", "saliency", "--method", "random")
    status, shown, _ = call(str(rows), "--model", model, *methods, "--html", str(page))
    names = re.findall(r"<h2[^>]*><bdi>(.*?)</bdi>", page.read_text(encoding="utf-8"))
    assert status == 0
    assert names[:3] == ["r0 · saliency (norm l1)", "r0 · random (seed 0)", "r1 · saliency (norm l1)"]
    assert len(names) == 22
    assert len(re.findall("^  rationale ", shown, re.MULTILINE)) == 6


def test_a_limit_spreads_over_the_file(call: Call, model: str, rows: Path) -> None:
    _, shown, _ = call(str(rows), "--model", model, "--limit", "3", "--json")
    assert [one["id"] for one in json.loads(shown)["results"]] == ["r0", "r4", "r8"]


def test_a_row_needs_no_answer_to_be_explained(call: Call, model: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "\\nA dull film."}\n{"text": "The best meal of my life!"}\n', encoding="utf-8")
    _, shown, _ = call(str(path), "--model", model)
    assert "2 rows explained\n" in shown
    _, _, error = call(str(path), "--model", model, "--target", "gold")
    assert error.startswith("Error: line 1: output is missing")


def test_choices_of_a_row_are_asked_without_an_answer_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"input": "Which?", "choices": ["this", "that"]}), encoding="utf-8")
    (question,) = explain.read(str(path)).questions
    assert (question.output, question.choices) == (None, ("this", "that"))


def test_the_line_at_fault_is_named_and_nothing_is_written(call: Call, model: str, tmp_path: Path) -> None:
    path, out = tmp_path / "rows.jsonl", tmp_path / "maps.jsonl"
    texts = [{"input": f"Text number {i}.", "output": "joy" if i == 70 else "neutral"} for i in range(80)]
    path.write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    out.write_text("before", encoding="utf-8")
    status, _, error = call(str(path), "--model", model, "--target", "gold", "--out", str(out))
    assert status == 1
    assert error == "Error: line 71: output is 'joy': it must be one of 'negative', 'neutral', 'positive'\n"
    assert out.read_text(encoding="utf-8") == "before"
    assert {one.name for one in tmp_path.iterdir()} == {"rows.jsonl", "maps.jsonl"}
    status, _, error = call(str(path), "--model", model, "--target", "gold", "--compare", "--method", "saliency")
    assert error == "Error: line 71: output is 'joy': it must be one of 'negative', 'neutral', 'positive'\n"


def test_methods_are_compared_beside_both_controls(call: Call, model: str, rows: Path) -> None:
    methods = ("--compare", "--method", "saliency", "--method", "integrated_gradients:n_steps=2")
    status, shown, _ = call(str(rows), "--model", model, *methods)
    assert status == 0
    for name in ("saliency", "integrated_gradients", "n_steps 2", "random", "first_words"):
        assert name in shown
    assert "11 examples, 11 of them with highlights" in shown
    assert "line 3: input is missing" in shown
    table = " ".join(shown.split())
    _, shown, _ = call(str(rows), "--model", model, *methods, "--json")
    found = json.loads(shown)
    assert [row["method"] for row in found["rows"]] == ["saliency", "integrated_gradients", "random", "first_words"]
    assert set(found["rows"][0]["figures"]) >= {"comprehensiveness", "log_odds", "token_f1", "auprc"}
    assert len(found["sentences"]) == 2
    assert all(sentence in table for sentence in found["sentences"])


def test_all_that_need_only_a_score_are_compared_by_default() -> None:
    assert [name for name, _ in explain.default_methods()] == list(explain.COMPARED)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name the model"),
        (("--model", "/no/such"), "(--model): no model '/no/such'"),
        (("--method", "lime"), "(--method): unknown method 'lime': choose from"),
        (("--method", "saliency:l2"), "(--method): 'saliency:l2' is not of the form"),
        (("--method", "integrated_gradients:steps=5"), "(--method): settings.steps of the method"),
        (("--target", "gold"), "the text: output is missing"),
        (("--target", "label"), "label names the answer to explain"),
        (("--label", "joy"), "(--label): label is 'joy'"),
        (("--label", "neutral", "--against", "neutral"), "is explained in the text: name another"),
        (("--ignore", "verbs"), "(--ignore): Input should be 'stop_words' or 'punctuation'"),
        (("--top-share", "3"), "(--top-share): Input should be less than or equal to 1"),
        (("--labels", "one"), "(--labels): Tuple should have at least 2 items"),
        (("--template", "x"), "(--template): template must contain {input}"),
        (("--device", "cuda"), "(--device): there is no device 'cuda' on this machine"),
        (("--out", "/no/such/file"), "'/no/such/file' cannot be written: No such file"),
        (("--html", "/no/such/file"), "'/no/such/file' cannot be written: No such file"),
        (("--out", "x", "--method", "random", "--method", "saliency"), "(--out): the lines of a file"),
        (("--compare", "--html", "x"), "(--compare): a comparison has no maps"),
        (("--compare", "--rows"), "(--compare): a comparison has no maps"),
        (("--compare", "--url", "http://127.0.0.1:9"), "(--url): methods are compared in this process"),
        (("--url", "http://127.0.0.1:9"), "http://127.0.0.1:9 does not answer"),
    ],
)
def test_an_error_is_one_line_that_names_the_option(
    arguments: tuple[str, ...], said: str, call: Call, model: str
) -> None:
    named = () if not arguments or arguments[0] == "--model" else ("--model", model)
    status, shown, error = call("A dull film.", *named, *arguments)
    assert (status, shown) == (1, "")
    assert error.startswith("Error")
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "Error (TEXT): String should have at least 1 character"),
        ("rows.jsonl", "Error: there is no file 'rows.jsonl'"),
        ("bad \udcff byte", "Error (TEXT): Input should be a valid string"),
    ],
)
def test_a_text_that_is_none_is_refused_before_a_model_is_loaded(source: str, said: str, call: Call) -> None:
    status, _, error = call(source, "--model", "/no/such")
    assert status == 1
    assert error.startswith(said)


def test_a_method_that_is_none_is_refused_before_a_model_is_loaded(call: Call) -> None:
    _, _, error = call("text", "--model", "/no/such", "--method", "lime")
    assert error.startswith("Error (--method): unknown method 'lime'")


def test_only_the_maps_that_are_shown_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(maps, "_print", lambda *given: kept.append(given[1]))
    source = explain.Source(tuple(explain.Question(f"text {i}") for i in range(explain.CHUNK + 1)), Path("rows.jsonl"))
    with TeacherClient("http://teacher", transport=FakeTeacher()) as client:
        maps.show_maps(
            Console(), Service(client, None), source, [("saliency", {})], AttributionOptions(), maps.Outputs()
        )
    assert [len(one.questions) for one in kept] == [maps.SHOWN]
    assert [len(one.answer.results) for one in kept] == [maps.SHOWN]
    assert [one.summary.explained for one in kept] == [explain.CHUNK + 1]


def test_a_long_text_and_one_like_a_name_are_texts() -> None:
    for text in ("word " * 2000, "what is in rows.jsonl", "hello"):
        assert explain.read(text).questions[0].input == text
        assert explain.read(text).file is None


def test_a_file_without_a_readable_row_says_why(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\nnonsense\n', encoding="utf-8")
    status, _, error = call(str(path), "--model", "/no/such")
    assert status == 1
    assert error.startswith("Error: no row of 'rows.jsonl' can be read: line 1: input is missing")


def test_every_option_that_an_error_names_exists() -> None:
    shown = CliRunner().invoke(cli.app, ["attribute", "--help"], env={"COLUMNS": "200"}).output
    fields = set(AttributionOptions.model_fields) - {"top_share", "threshold", "ignore", "aggregation", "predict"}
    fields -= {"token_probabilities"}  # for students: no map shows them
    for field in fields:
        assert command.OPTIONS_OF_FIELDS.get(field, f"--{field.replace('_', '-')}") in shown


def test_a_service_explains_in_place_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    teacher = FakeTeacher()
    with TeacherClient("http://teacher", transport=teacher) as client:
        maps.show_maps(
            Console(width=80),
            Service(client, "teacher"),
            explain.read("a negative text"),
            [("occlusion", {})],
            AttributionOptions(labels=LABELS, top_k=1),
            maps.Outputs(),
        )
    (request,) = teacher.requests
    assert request.model == "teacher"
    assert request.labels == LABELS
    assert "a [negative] text" in capsys.readouterr().out


def test_a_key_is_sent_to_a_service_that_wants_one(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    keys = []

    def client(url: str, *, api_key: str | None) -> TeacherClient:
        keys.append(api_key)
        return TeacherClient(url, transport=FakeTeacher())

    monkeypatch.setattr(maps, "TeacherClient", client)
    monkeypatch.setenv("UNDERSTUDY_API_KEY", "from the environment")
    assert call("text", "--url", "http://teacher")[0] == 0
    assert call("text", "--url", "http://teacher", "--api-key", "given")[0] == 0
    assert keys == ["from the environment", "given"]


def test_a_long_file_goes_to_a_service_in_several_requests() -> None:
    teacher = FakeTeacher()
    source = explain.Source(tuple(explain.Question(f"text {i}") for i in range(explain.CHUNK + 1)), Path("rows.jsonl"))
    with TeacherClient("http://teacher", transport=teacher) as client:
        answers = list(explain.explain(Service(client, None), source, AttributionOptions()))
    assert [len(questions) for questions, _ in answers] == [explain.CHUNK, 1]
    assert len(teacher.requests) == 2


def test_a_busy_service_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from understudy.errors import Overloaded

    teacher, pauses = FakeTeacher(), []
    monkeypatch.setattr(explain.time, "sleep", pauses.append)
    teacher.fail_next(Overloaded("busy", retry_after=3), Overloaded("busy"))
    with TeacherClient("http://teacher", transport=teacher) as client:
        service = Service(client, None)
        assert service.explain([AttributionExample(input="text")], AttributionOptions()).results
        assert pauses == [3, 1]
        teacher.fail_next(Overloaded("busy", retry_after=explain.PATIENCE + 1))
        with pytest.raises(Overloaded):
            service.explain([AttributionExample(input="text")], AttributionOptions())


def test_an_interrupted_file_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "maps.jsonl"
    with suppress(KeyboardInterrupt), explain.write_aside(out) as add:
        add("one")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_settings_are_numbers_where_they_can_be() -> None:
    assert explain.parse_method("smooth_grad:n_samples=3,noise=0.5") == ("smooth_grad", {"n_samples": 3, "noise": 0.5})
    assert explain.parse_method("saliency:norm=l2") == ("saliency", {"norm": "l2"})
    with pytest.raises(InvalidRequest):
        explain.parse_method("saliency:=l2")


def test_a_model_that_fails_on_a_row_names_its_line(model: str, tmp_path: Path) -> None:
    adapter = load_adapter(model)
    adapter.model.head.bias.data.fill_(float("nan"))
    path = tmp_path / "rows.jsonl"
    path.write_text('\n\n{"input": "A dull film."}\n', encoding="utf-8")
    with pytest.raises(ModelError, match=r"^line 3: the model's numbers are not finite"):
        list(explain.explain(InProcess(adapter, "broken"), explain.read(str(path)), AttributionOptions()))


def test_the_python_in_the_documentation_runs(model: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENTED, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("path/or/hub-name", model), names)
    assert "Close" in names["page"]


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_is_documented_with_its_settings(method: str) -> None:
    line = next(line for line in DOCUMENTED.splitlines() if line.startswith("|") and f"`{method}`" in line)
    assert all(f"`{name}`" in line for name in settings_of(make_method(method, {})))


def test_every_option_in_the_documentation_exists() -> None:
    shown = CliRunner().invoke(cli.app, ["attribute", "--help"], env={"COLUMNS": "200"}).output
    assert set(re.findall(r"--[a-z]+[a-z-]*", DOCUMENTED)) <= set(re.findall(r"--[a-z]+[a-z-]*", shown))
