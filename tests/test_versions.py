"""Aliases with their history, and what may be promoted: in a folder and in an object store, by one and by many at once.

Models here are folders with a configuration, a task and a report: whether one can be loaded is for its server to say.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from understudy.aliases import standing
from understudy.artifacts import ArtifactStore
from understudy.cli import app
from understudy.errors import ArtifactCorrupt, Conflict, InvalidRequest, ModelNotFound
from understudy.evaluation.report import ArmRow, BaselineRow, Comparison, Machine, Published, Report, SeedRow
from understudy.evaluation.spec import RowCounts
from understudy.schemas import TaskSpec
from understudy.versions import Versions

TASK = TaskSpec(kind="classification", labels=("bad", "good"))
ESCAPES = (
    "../production",
    "..",
    ".",
    "..\\production",
    "%2e%2e%2fproduction",
    "%252e%252e%252fproduction",
    "/etc/passwd",
    "file:///etc/passwd",
    "a/b",
    "a\\b",
    "nul\x00",
    "line\nbreak",
    "\u2025/production",
    "\ud800",
    " production",
    "x" * 65,
    "",
)


def report(accuracy: float = 0.8) -> Report:
    seed = SeedRow(seed=0, accuracy=accuracy, validation_accuracy=accuracy, artifact="model-0", steps=1, seconds=1.0)
    figures = {"accuracy": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1, "validation_accuracy": accuracy}
    sizes = {"parameters": 1, "size_mb": 1.0, "latency_ms": 1.0, "steps": 1, "seconds": 1.0}
    arms = [
        ArmRow(recipe=recipe, candidate=True, control_of=None, seeds=(seed,), **figures, **sizes)
        for recipe in ("finetune", "rationale_gate")
    ]
    beats = Comparison(
        arm="rationale_gate", against="finetune", difference=0.03, low=0.01, high=0.05, verdict="BEATS", seeds=1
    )
    return Report(
        job_id="ftjob-one",
        created_at="2026-11-20T10:00:00+00:00",
        task=TASK,
        rows=RowCounts(train=10, validation=10, test=10),
        arms=tuple(arms),
        teacher=None,
        baseline=BaselineRow(description="always 'bad'", accuracy=0.5),
        comparisons=(beats,),
        rationale=None,
        published=Published(recipe="rationale_gate", seed=0, artifact="model-0", why="it is unbeaten"),
        machine=Machine(cpu="cpu", cores=1, threads=1, device="CPU", torch="2", python="3"),
        caveats=(),
    )


@pytest.fixture(params=["folder", "object store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "artifacts") if request.param == "folder" else f"memory://{uuid.uuid4().hex}/artifacts"


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., str]:
    """Publish a model that differs from others by its name."""

    def put(store: ArtifactStore, name: str, task: TaskSpec | None = TASK, said: str | None = None) -> str:
        folder = tmp_path / f"made-{uuid.uuid4().hex}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"name": name}))
        (folder / "weights.bin").write_bytes(name.encode() * 100)
        if task is not None:
            (folder / "task.json").write_text(task.model_dump_json())
        if said is not None:
            (folder / "report.json").write_text(said)
        return store.publish("model", folder, {"role": "published", "job_id": "ftjob-one", "recipe": "finetune"}).id

    return put


def test_an_alias_is_promoted_and_rolled_back_as_far_as_its_history_goes(root: str, publish: Any) -> None:
    store = ArtifactStore(root)
    a, b, c, d = (publish(store, name) for name in "abcd")
    versions = Versions(store)
    for version in (a, b, c):
        versions.promote("production", version, by="ada")
    assert versions.show("production").back == (b, a)
    assert [versions.rollback("production", by="bob").artifact for _ in range(2)] == [b, a]
    with pytest.raises(Conflict, match="nothing to go back to"):
        versions.rollback("production", by="bob")
    assert store.resolve("production") == a
    versions.promote("production", d, by="ada")  # what was rolled back is not gone back to
    assert versions.show("production").back == (a,)
    history = versions.show("production").history
    assert [(one.how, one.by, one.before, one.artifact) for one in history] == [
        ("promote", "ada", None, a),
        ("promote", "ada", a, b),
        ("promote", "ada", b, c),
        ("rollback", "bob", c, b),
        ("rollback", "bob", b, a),
        ("promote", "ada", a, d),
    ]
    assert [one.number for one in history] == [1, 2, 3, 4, 5, 6]
    assert all(earlier.at <= later.at for earlier, later in itertools.pairwise(history))


def test_promoting_what_is_there_changes_nothing(root: str, publish: Any) -> None:
    store = ArtifactStore(root)
    a = publish(store, "a")
    first = store.set_alias("production", a, by="ftjob-one")
    assert Versions(store).promote("production", a, by="ada") == first
    assert [one.by for one in store.moves.history("production")] == ["ftjob-one"]


def test_a_move_that_is_made_once_is_not_made_again_whatever_came_after_it(root: str, publish: Any) -> None:
    store = ArtifactStore(root)
    a, b = publish(store, "a"), publish(store, "b")
    first = store.set_alias("production", a, by="ftjob-one", once=True)
    store.set_alias("production", b, how="promote", by="somebody")
    assert store.set_alias("production", a, by="ftjob-one", once=True) == first
    assert store.resolve("production") == b
    assert store.set_alias("production", a, by="ftjob-two", once=True).number == 3
    assert store.resolve("production") == a


def test_a_version_may_be_named_by_another_alias(root: str, publish: Any) -> None:
    store = ArtifactStore(root)
    a, b = publish(store, "a"), publish(store, "b")
    store.set_alias("production", a)
    store.set_alias("canary", b)
    Versions(store).promote("production", "canary", by=None)
    assert store.aliases() == {"canary": b, "production": b}


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weights.bin", "task.json"])
@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_version_is_refused_and_the_old_one_stays(
    tmp_path: Path, publish: Any, damage: str, name: str
) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    a, b = publish(store, "a"), publish(store, "b")
    versions = Versions(store)
    versions.promote("production", b, by=None)
    versions.promote("production", a, by=None)
    store.folder(b)  # this process has found it whole before
    victim = Path(store.root) / b / name
    victim.unlink() if damage == "remove" else victim.write_bytes(b"other")
    for move in (lambda: versions.promote("production", b, by=None), lambda: versions.rollback("production", by=None)):
        with pytest.raises(ArtifactCorrupt, match=name):
            move()
    assert store.resolve("production") == a
    assert len(store.moves.history("production")) == 2


def test_a_version_that_is_gone_or_no_model_is_refused(root: str, publish: Any, tmp_path: Path) -> None:
    store = ArtifactStore(root)
    a, b = publish(store, "a"), publish(store, "b")
    versions = Versions(store)
    versions.promote("production", a, by=None)
    versions.promote("production", b, by=None)
    store.delete(a)
    with pytest.raises(ModelNotFound, match=a):
        versions.rollback("production", by=None)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.jsonl").write_text("{}")
    for kind, words in (("file", "no model"), ("model", "no config.json")):
        with pytest.raises(ModelNotFound, match=words):
            versions.promote("production", store.publish(kind, tmp_path / "rows").id, by=None)
    with pytest.raises(ModelNotFound, match="aliases: production"):
        versions.promote("production", "prodution", by=None)
    assert store.resolve("production") == b


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (TaskSpec(kind="classification", labels=("bad", "good", "so-so")), "so-so"),
        (TaskSpec(kind="generation"), "generation"),
        (None, "no task.json"),
    ],
)
def test_another_task_is_refused_unless_it_is_meant(root: str, publish: Any, task: TaskSpec | None, words: str) -> None:
    store = ArtifactStore(root)
    a, other = publish(store, "a"), publish(store, "b", task)
    versions = Versions(store)
    versions.promote("production", a, by=None)
    with pytest.raises(Conflict, match=words) as caught:
        versions.promote("production", other, by=None)
    assert caught.value.param == "model"
    assert store.resolve("production") == a
    versions.promote("production", other, by=None, force=True)
    assert store.resolve("production") == other


def test_the_same_labels_in_another_order_and_template_are_the_same_task(root: str, publish: Any) -> None:
    store = ArtifactStore(root)
    task = TaskSpec(kind="classification", labels=("good", "bad"), template="Text: {input}")
    a, b = publish(store, "a"), publish(store, "b", task)
    for version in (a, b):
        Versions(store).promote("production", version, by=None)
    assert store.resolve("production") == b


@pytest.mark.parametrize("name", ESCAPES, ids=ascii)
def test_no_name_leads_out_of_the_store(tmp_path: Path, publish: Any, name: str) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    a = publish(store, "a")
    before = sorted(tmp_path.rglob("*"))
    versions = Versions(store)
    with pytest.raises(InvalidRequest):
        versions.promote(name, a, by=None)
    with pytest.raises(InvalidRequest):
        versions.rollback(name, by=None)
    with pytest.raises(ModelNotFound):
        versions.promote("production", name, by=None)
    with pytest.raises(ModelNotFound):
        versions.show(name)
    assert sorted(tmp_path.rglob("*")) == before


def test_whoever_expects_another_version_is_too_late(root: str, publish: Any) -> None:
    store = ArtifactStore(root)
    a, b, c = (publish(store, name) for name in "abc")
    versions = Versions(store)
    versions.promote("production", a, by=None)
    versions.promote("production", b, by=None, expected=a)
    for late in (
        lambda: versions.promote("production", c, by=None, expected=a),
        lambda: versions.rollback("production", by=None, expected=a),
    ):
        with pytest.raises(Conflict, match="it has moved") as caught:
            late()
        assert caught.value.param == "expected"
    assert store.resolve("production") == b


# --- many at once, and what is cut off -------------------------------------------------------------------------------


def _promote_often(root: str, versions: list[str], by: str, start: Any) -> None:
    start.wait(60)
    for version in versions:
        ArtifactStore(root).set_alias("production", version, how="promote", by=by)


def _whole(store: ArtifactStore, moves: int) -> None:
    """The history has no gap and no fork, and readers see its end."""
    history = store.moves.history("production")
    assert [one.number for one in history] == list(range(1, moves + 1))
    assert [one.before for one in history] == [None, *(one.artifact for one in history[:-1])]
    assert store.resolve("production") == history[-1].artifact


def test_processes_that_promote_at_once_leave_one_winner_and_a_whole_history(tmp_path: Path, publish: Any) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    mine = {by: [publish(store, f"{by}{i}") for i in range(6)] for by in ("ada", "bob", "cyd")}
    context = multiprocessing.get_context("fork")
    start = context.Event()
    runs = [context.Process(target=_promote_often, args=(store.root, mine[by], by, start)) for by in mine]
    for run in runs:
        run.start()
    start.set()
    for run in runs:
        run.join(60)
        assert run.exitcode == 0
    _whole(store, 18)
    for by, versions in mine.items():
        assert [one.artifact for one in store.moves.history("production") if one.by == by] == versions


def test_an_object_store_has_no_lock_and_keeps_every_move(publish: Any) -> None:
    """Each record is written by whoever is first, while another stands between deciding and writing."""
    root = f"memory://{uuid.uuid4().hex}/artifacts"
    store, other = ArtifactStore(root), ArtifactStore(root)
    a, b = publish(store, "a"), publish(store, "b")
    create, tried = store.moves._create, []

    def late(name: str, move: Any) -> bool:
        tried.append(move.number)
        if len(tried) == 1:
            other.set_alias("production", a, by="other")
        return create(name, move)

    store.moves._create = late  # type: ignore[method-assign]
    store.set_alias("production", b, by="late")
    assert tried == [1, 2]
    assert [one.by for one in store.moves.history("production")] == ["other", "late"]
    _whole(store, 2)


def test_a_reader_is_shown_the_last_move_whoever_wrote_last(publish: Any) -> None:
    root = f"memory://{uuid.uuid4().hex}/artifacts"
    store, other = ArtifactStore(root), ArtifactStore(root)
    a, b = publish(store, "a"), publish(store, "b")
    write, paths = store.moves._write, []

    def late(path: str, value: Any) -> None:
        if not paths:
            other.set_alias("production", b)
        paths.append(path)
        write(path, value)

    store.moves._write = late  # type: ignore[assignment]
    store.set_alias("production", a)
    _whole(store, 2)
    assert store.resolve("production") == b


def test_a_move_that_was_cut_off_is_completed_by_the_next(root: str, publish: Any) -> None:
    store = ArtifactStore(root)
    a, b, c = (publish(store, name) for name in "abc")
    store.set_alias("production", a)

    def cut_off(path: str, value: Any) -> None:
        if "/aliases/" in path:
            raise OSError("the machine stops here")
        write(path, value)

    write, store.moves._write = store.moves._write, cut_off  # type: ignore[assignment]
    with pytest.raises(OSError, match="stops here"):
        store.set_alias("production", b)
    later = ArtifactStore(root)
    assert later.resolve("production") == a
    later.set_alias("production", c)
    _whole(later, 3)
    assert Versions(later).show("production").back == (b, a)


def test_readers_never_see_half_a_move(tmp_path: Path, publish: Any) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    known = {publish(store, name) for name in "ab"}
    store.set_alias("production", min(known))
    stop, seen, failures = threading.Event(), set(), []

    def read() -> None:
        reader = ArtifactStore(store.root)
        while not stop.is_set():
            try:
                seen.add(reader.resolve("production"))
            except Exception as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(30):
        for version in known:
            store.set_alias("production", version)
    stop.set()
    reader.join(30)
    assert failures == []
    assert seen <= known


def test_an_alias_from_before_there_was_a_history_has_one_from_its_next_move_on(root: str, publish: Any) -> None:
    store = ArtifactStore(root)
    a, b = publish(store, "a"), publish(store, "b")
    store.fs.makedirs(f"{store.root}/aliases", exist_ok=True)
    store.fs.pipe_file(f"{store.root}/aliases/production.json", json.dumps({"artifact": a, "set_at": 7}).encode())
    assert [(one.artifact, one.at) for one in store.moves.history("production")] == [(a, 7)]
    versions = Versions(store)
    versions.promote("production", b, by="ada")
    _whole(store, 2)
    assert versions.rollback("production", by="ada").artifact == a


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path, publish: Any) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    store.set_alias("production", publish(store, "a"))
    (tmp_path / "artifacts" / "history" / "production" / "00000001.json").write_text("{")
    with pytest.raises(ArtifactCorrupt, match=r"history/production/00000001\.json"):
        Versions(store).show("production")
    assert store.resolve("production")  # whoever serves does not need it


def test_what_can_be_gone_back_to_is_what_was_not_rolled_back(publish: Any, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    a, b = publish(store, "a"), publish(store, "b")
    versions = Versions(store)
    for _ in range(3):
        versions.promote("production", a, by=None)
        versions.promote("production", b, by=None)
        versions.rollback("production", by=None)
    assert standing(store.moves.history("production")) == [a]


# --- the command line ------------------------------------------------------------------------------------------------


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["models", *words], env={"COLUMNS": "200", "USER": "ada", "LOGNAME": "ada"})


def test_the_command_line_lists_shows_promotes_and_rolls_back(tmp_path: Path, publish: Any) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    place = ("--home", str(tmp_path))
    assert "No model is published yet" in run("list", *place).output
    a, b = publish(store, "a", said=report().model_dump_json()), publish(store, "b", said="{")
    promoted = json.loads(run("promote", "production", a, *place, "--json").output)
    assert (promoted["artifact"], promoted["before"], promoted["how"], promoted["by"]) == (a, None, "promote", "ada")
    run("promote", "production", b, *place)
    listed = {one["id"]: one for one in json.loads(run("list", *place, "--json").output)}
    assert (listed[a]["job"], listed[a]["accuracy"], listed[a]["aliases"]) == ("ftjob-one", 0.8, [])
    assert listed[a]["verdict"].startswith("rationale_gate BEATS finetune by +3.0 points")
    assert (listed[b]["aliases"], listed[b]["accuracy"]) == (["production"], None)
    assert "report.json" in listed[b]["problem"]
    table = run("list", *place).output
    assert a in table
    assert "80.0 [70.0, 90.0]" in table
    rolled = run("rollback", "production", *place).output
    assert f"rollback by ada: {b} -> {a}" in rolled
    shown = run("show", "production", *place).output
    for words in ("classification bad, good", "rationale_gate BEATS finetune", "80.0 [70.0, 90.0] %", "ftjob-one"):
        assert words in shown
    assert [one["how"] for one in json.loads(run("show", "production", *place, "--json").output)["history"]] == [
        "promote",
        "promote",
        "rollback",
    ]


def test_the_command_line_says_what_is_refused(tmp_path: Path, publish: Any) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    a = publish(store, "a")
    result = run("promote", "production", "model-" + "0" * 24, "--artifacts", store.root)
    assert isinstance(result.exception, ModelNotFound)
    assert result.exception.param == "MODEL"
    assert isinstance(run("rollback", "../up", "--artifacts", store.root).exception, InvalidRequest)
    shutil.rmtree(Path(store.root) / a)
    assert isinstance(run("show", a, "--artifacts", store.root).exception, ModelNotFound)
