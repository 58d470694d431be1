"""An arm of a report, trained again: equal where all is equal, and what is said where something is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from understudy.artifacts import ArtifactStore
from understudy.cli import app
from understudy.data.parquet import write_examples
from understudy.environment import Environment
from understudy.errors import ArtifactCorrupt, ArtifactNotFound, InvalidRequest
from understudy.evaluation.manifest import ArmRecord, Data, FileRef, Manifest, settings_of, weights_of
from understudy.evaluation.report import Report
from understudy.evaluation.run import evaluate
from understudy.evaluation.spec import ArmResult, EvaluateSpec, RowCounts
from understudy.reproduce import Figure, find_report, reproduce
from understudy.schemas import Example, Hyperparameters, TaskSpec
from understudy.training.run import train
from understudy.training.spec import TrainResult, TrainSpec

TASK = TaskSpec(kind="classification", labels=("bad", "good"))
SEEDS = (0, 1)


def examples(start: int, count: int) -> list[Example]:
    signs = {"good": ("wonderful", "charming"), "bad": ("dreadful", "boring")}
    labels = [("good", "bad")[place % 2] for place in range(start, start + count)]
    texts = [f"A {signs[label][place % 3 % 2]} evening, number {place}" for place, label in enumerate(labels, start)]
    return [
        Example(id=f"row {start + place}", input=text, output=label)
        for place, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a data set and a report on two trainings, as a job leaves them."""
    folder = tmp_path_factory.mktemp("world")
    store, data = ArtifactStore(folder / "artifacts"), folder / "data"
    data.mkdir()
    for name, rows in {"train": examples(0, 24), "validation": examples(24, 12), "test": examples(36, 16)}.items():
        write_examples(data / f"{name}.parquet", rows)
    dataset = store.publish("dataset", data).id
    files = {name: store.folder(dataset) / f"{name}.parquet" for name in ("train", "validation", "test")}
    torch.set_num_threads(1)
    records, arms = [], []
    for seed in SEEDS:
        spec = TrainSpec(
            model="scratch:bert-1x16",
            task=TASK,
            train=(files["train"],),
            annotated=False,
            validation=files["validation"],
            seed=seed,
            hyperparameters=Hyperparameters(max_steps=6, batch_size=5),
            artifacts=str(folder / "artifacts"),
        )
        result = train(spec, folder / f"out-{seed}", lambda _: None)
        model = store.publish("model", result.model).id
        records.append(ArmRecord.of(spec, result, weights_of(store.get(model).files), artifact=model))
        arms.append(
            ArmResult(
                recipe="finetune",
                seed=seed,
                model=result.model,
                artifact=model,
                validation_accuracy=result.validation_accuracy,
                steps=result.steps,
                seconds=result.seconds,
                candidate=True,
            )
        )
    refs = {name: FileRef.of(path, dataset) for name, path in files.items()}
    manifest = Manifest(
        task=TASK,
        data=Data(train=(refs["train"],), annotated=False, validation=refs["validation"], test=refs["test"]),
        arms=tuple(records),
    )
    spec = EvaluateSpec(
        job_id="ftjob-1",
        task=TASK,
        test=files["test"],
        train=(files["train"],),
        arms=tuple(arms),
        rows=RowCounts(train=24, validation=12, test=16),
        manifest=manifest,
    )
    evaluate(spec, folder / "report", lambda *_: None)
    return folder


@pytest.fixture
def copied(world: Path, tmp_path: Path) -> Path:
    """The same somewhere else, which a test may damage."""
    shutil.copytree(world / "artifacts", tmp_path / "elsewhere")
    shutil.copytree(world / "report", tmp_path / "report")
    return tmp_path


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> str:
    """Edit the manifest in a report, and name the report."""
    path = folder / "report" / "report.json"
    report = json.loads(path.read_bytes())
    edit(report["manifest"])
    path.write_text(json.dumps(report))
    return str(path)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["reproduce", *arguments])


def test_a_report_that_was_moved_is_confirmed_bit_by_bit(copied: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    report = str(copied / "report")
    found = reproduce(report, artifacts=copied / "elsewhere", emit=lambda *said: seen.append(said))
    assert found.verdict == "bit-equal"
    assert [one.name for one in found.figures] == [
        "untrained model",
        "weights",
        "validation accuracy",
        "test accuracy",
        "test answers",
    ]
    assert all(one.recorded is not None for one in found.figures)
    assert found.differences == ()
    assert ("train", 6, 6) in seen
    assert seen[-1] == ("answer", 16, 16)


def test_the_default_is_the_published_arm_and_another_can_be_named(copied: Path) -> None:
    report, store = find_report(str(copied / "report" / "report.json"), copied / "elsewhere")
    assert store is not None
    assert reproduce(str(copied / "report"), artifacts=copied / "elsewhere").seed == report.published.seed
    other = next(seed for seed in SEEDS if seed != report.published.seed)
    found = reproduce(str(copied / "report"), artifacts=copied / "elsewhere", seed=other)
    assert (found.seed, found.confirmed) == (other, True)


def test_a_report_inside_a_store_needs_no_other_word(copied: Path) -> None:
    store = ArtifactStore(copied / "elsewhere")
    artifact = store.publish("report", copied / "report").id
    store.set_alias("latest", artifact)
    inside = find_report(str(copied / "elsewhere" / artifact))
    by_id, by_alias = (find_report(name, copied / "elsewhere") for name in (artifact, "latest"))
    assert inside[0] == by_id[0] == by_alias[0]
    assert inside[1] is not None
    assert inside[1].root == by_id[1].root == str(copied / "elsewhere")  # type: ignore[union-attr]


def test_another_figure_in_the_same_environment_is_not_confirmed(copied: Path) -> None:
    def worse(manifest: dict[str, Any]) -> None:
        for arm in manifest["arms"]:
            arm["test_accuracy"] = 0.123

    report = change(copied, worse)
    found = reproduce(report, artifacts=copied / "elsewhere")
    assert found.verdict == "different"
    assert [one.name for one in found.figures if not one.equal] == ["test accuracy"]
    result = run(report, "--artifacts", str(copied / "elsewhere"))
    assert result.exit_code == 1
    assert "Not confirmed" in result.output


def test_on_another_machine_other_bits_are_no_surprise_and_other_figures_are_told(copied: Path) -> None:
    def elsewhere(manifest: dict[str, Any]) -> None:
        for arm in manifest["arms"]:
            arm["environment"]["cpu"] = "another processor"
            arm["weights"] = {"model.safetensors": "0" * 64}

    found = reproduce(change(copied, elsewhere), artifacts=copied / "elsewhere")
    assert (found.verdict, found.confirmed) == ("equal figures", True)
    assert any(said.startswith("cpu: another processor -> ") for said in found.differences)

    def a_little(manifest: dict[str, Any]) -> None:
        for arm in manifest["arms"]:
            arm["test_accuracy"] += 1 / 16 if arm["test_accuracy"] < 0.5 else -1 / 16

    near = reproduce(change(copied, a_little), artifacts=copied / "elsewhere")
    assert (near.verdict, near.confirmed) == ("within the interval", False)


def test_data_that_differs_or_is_missing_is_told_before_any_training(copied: Path) -> None:
    store = ArtifactStore(copied / "elsewhere")
    (dataset,) = store.list("dataset")
    report = str(copied / "report")
    trained = copied / "elsewhere" / dataset.id / "train.parquet"
    write_examples(trained, examples(0, 23))

    def never(*_: Any) -> None:
        raise AssertionError("a training began")

    with pytest.raises(ArtifactCorrupt, match=r"train\.parquet"):
        reproduce(report, artifacts=copied / "elsewhere", emit=never)
    store.delete(dataset.id)
    with pytest.raises(ArtifactNotFound, match=dataset.id):
        reproduce(report, artifacts=copied / "elsewhere", emit=never)


def test_files_without_a_store_are_checked_by_their_content(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    write_examples(file, examples(0, 4))
    ref = FileRef.of(file)
    assert ref.find(None) == file
    write_examples(file, examples(0, 5))
    with pytest.raises(ArtifactCorrupt, match="not what was trained on"):
        ref.find(None)
    file.unlink()
    with pytest.raises(ArtifactNotFound, match="missing"):
        ref.find(None)


def test_a_setting_that_this_version_does_not_know_is_not_left_out_in_silence(copied: Path) -> None:
    def newer(manifest: dict[str, Any]) -> None:
        for arm in manifest["arms"]:
            arm["settings"]["sharpness"] = 2

    with pytest.raises(InvalidRequest, match="sharpness"):
        reproduce(change(copied, newer), artifacts=copied / "elsewhere")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--arm", "saliency"], "finetune, seed 0"),
        (["--seed", "7"], "finetune, seed 1"),
        (["--size", "10"], "no arm"),
    ],
)
def test_what_the_report_does_not_have_is_a_usage_error(world: Path, arguments: list[str], said: str) -> None:
    result = run(str(world / "report"), "--artifacts", str(world / "artifacts"), *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


def test_a_name_behind_which_there_is_no_report_is_a_usage_error(world: Path, tmp_path: Path) -> None:
    assert run("nowhere", "--artifacts", str(world / "artifacts")).exit_code == 2
    assert run(str(tmp_path)).exit_code == 2
    (tmp_path / "report.json").write_text("{}")
    assert run(str(tmp_path)).exit_code == 2


def test_a_report_without_a_manifest_is_a_usage_error(world: Path, tmp_path: Path) -> None:
    report = Report.model_validate_json((world / "report" / "report.json").read_bytes())
    (tmp_path / "report.json").write_text(report.model_copy(update={"manifest": None}).model_dump_json())
    assert run(str(tmp_path)).exit_code == 2


def test_json_alone_is_printed_when_it_is_asked_for(world: Path) -> None:
    result = run(str(world / "report"), "--artifacts", str(world / "artifacts"), "--json")
    assert result.exit_code == 0
    assert json.loads(result.output)["verdict"] == "bit-equal"


def test_the_threads_are_those_of_the_training_and_are_given_back(copied: Path) -> None:
    def two(manifest: dict[str, Any]) -> None:
        for arm in manifest["arms"]:
            arm["environment"]["threads"] = 2

    seen: list[int] = []
    found = reproduce(
        change(copied, two), artifacts=copied / "elsewhere", emit=lambda *_: seen.append(torch.get_num_threads())
    )
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1
    assert not any(said.startswith("threads") for said in found.differences)


def test_environments_that_differ_say_in_what() -> None:
    here = Environment.here(threads=1)
    other = here.model_copy(update={"threads": 4, "versions": {**here.versions, "torch": "0.1"}, "cores": 99})
    assert here.differences(here) == ()
    assert here.differences(other) == (f"torch: {here.versions['torch']} -> 0.1", "threads: 1 -> 4")


def test_an_environment_outside_a_checkout_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from understudy import environment

    environment._commit.cache_clear()
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "site-packages" / "understudy" / "environment.py"))
    assert Environment.here(threads=1).commit is None
    environment._commit.cache_clear()


def test_a_training_by_the_clock_is_trained_again_by_the_steps_that_it_took(copied: Path) -> None:
    def timed(manifest: dict[str, Any]) -> None:
        for arm in manifest["arms"]:
            arm["settings"]["hyperparameters"] |= {"seconds": 5.0, "max_steps": None}
            arm["settings"]["stop_after"] = 6

    found = reproduce(change(copied, timed), artifacts=copied / "elsewhere")
    assert found.differences == (
        "it trained by the clock, which no second training can follow: this one took as many steps",
    )
    assert found.by_clock
    assert found.verdict == "bit-equal"  # the report's own training had six steps and no clock
    other = found.model_copy(
        update={"figures": (Figure(name="test accuracy", recorded=0.5, found=0.6, low=0.4, high=0.7),)}
    )
    assert other.sentence.endswith("By the clock they always may.")


def test_the_manifest_holds_the_seconds_and_the_steps_that_they_were(world: Path) -> None:
    report, _ = find_report(str(world / "report"), world / "artifacts")
    spec = TrainSpec.model_validate(
        {**report.manifest.arms[0].settings, "task": TASK, "train": ["a"], "annotated": False, "validation": "b"}
    )
    timed = spec.model_copy(update={"hyperparameters": Hyperparameters(seconds=2.0)})
    result = TrainResult(
        model=world,
        validation_accuracy=0.5,
        validation_loss=1.0,
        validation_rows=1,
        best_step=3,
        steps=7,
        batch_size=5,
        learning_rate=0.1,
        seconds=2.5,
        parameters=1,
        device="cpu",
        instances=24,
        planned_steps=7,
    )
    settings = settings_of(timed, result)
    assert (settings["hyperparameters"]["seconds"], settings["stop_after"]) == (2.0, 7)
    assert settings_of(spec, result)["stop_after"] is None
