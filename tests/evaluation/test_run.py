"""The evaluation stage on real tiny students."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from understudy.data.parquet import read_examples, write_examples
from understudy.errors import InvalidRequest, ModelNotFound
from understudy.evaluation.report import Report
from understudy.evaluation.run import ArmResult, EvaluateSpec, evaluate
from understudy.evaluation.spec import MapFaithfulness, Searched
from understudy.schemas import Example, Faithfulness, PredictionInput, PredictionRequest, TaskSpec
from understudy.serving.hf import HFEngine
from understudy.testing import SENTENCES, TARGETS, tiny_seq2seq

MakeSpec = Callable[..., EvaluateSpec]


@pytest.fixture(autouse=True)
def _few_timed_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.evaluation.run._TIMED_CALLS", 3)


def quiet(done: int, total: int) -> None:
    """Nobody listens."""


def test_the_report_is_written_as_data_and_as_a_page(make_spec: MakeSpec, tmp_path: Path) -> None:
    report = evaluate(make_spec(), tmp_path / "out", quiet)
    assert Report.model_validate_json((tmp_path / "out" / "report.json").read_bytes()) == report
    assert "rationale_gate" in (tmp_path / "out" / "report.html").read_text()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["summary"] == report.summary


def test_accuracy_is_that_of_the_served_model(
    make_spec: MakeSpec, tmp_path: Path, students: dict[tuple[str, int], Path]
) -> None:
    report = evaluate(make_spec(seeds=2), tmp_path / "out", quiet)
    engine = HFEngine.load(students["gate", 1])
    asked = [PredictionInput(input=text) for text in SENTENCES]
    labels = [one.label for one in engine.predict(asked, explain=False, top_k=1)]
    expected = sum(given == label for given, label in zip(labels, TARGETS, strict=True)) / len(TARGETS)
    assert report.arm("rationale_gate").seeds[1].accuracy == expected
    assert report.arm("rationale_gate").accuracy == pytest.approx(
        sum(run.accuracy for run in report.arm("rationale_gate").seeds) / 2
    )


def test_candidates_meet_finetune_and_their_own_control(make_spec: MakeSpec, tmp_path: Path) -> None:
    report = evaluate(make_spec(seeds=2), tmp_path / "out", quiet)
    assert [(one.arm, one.against) for one in report.comparisons] == [
        ("rationale_gate", "finetune"),
        ("rationale_gate", "rationale_gate+random_rationale"),
    ]
    assert {one.seeds for one in report.comparisons} == {2}


def test_recipes_meet_what_remains_without_their_reasons_and_every_control(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    arm = spec.arms[0]
    names = ("finetune", "logit_kd", "saliency+logit_kd")
    arms = [arm.model_copy(update={"recipe": name, "artifact": name}) for name in names]
    arms += [
        arm.model_copy(
            update={"recipe": f"{names[2]}+{variant}", "candidate": False, "control_of": names[2], "artifact": variant}
        )
        for variant in ("random_rationale", "shuffled_rationale")
    ]
    report = evaluate(spec.model_copy(update={"arms": tuple(arms)}), tmp_path / "out", quiet)
    assert [(one.arm, one.against) for one in report.comparisons] == [
        ("logit_kd", "finetune"),
        ("saliency+logit_kd", "finetune"),
        ("saliency+logit_kd", "logit_kd"),
        ("saliency+logit_kd", "saliency+logit_kd+random_rationale"),
        ("saliency+logit_kd", "saliency+logit_kd+shuffled_rationale"),
    ]
    assert {one.comparisons for one in report.comparisons} == {5}


def test_runs_on_fewer_rows_make_the_curve_and_nothing_else(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    sized = [arm.model_copy(update={"size": 6, "artifact": f"{arm.artifact}-6"}) for arm in spec.arms]
    sized[0] = sized[0].model_copy(update={"validation_accuracy": 1.0})  # best of all, and of no account
    both = spec.model_copy(update={"arms": (*sized, *spec.arms)})
    report, plain = evaluate(both, tmp_path / "both", quiet), evaluate(spec, tmp_path / "plain", quiet)
    assert report.comparisons == plain.comparisons
    assert report.published == plain.published
    assert [arm.accuracy for arm in report.arms] == [arm.accuracy for arm in plain.arms]
    assert [(one.size, one.whole) for one in report.curve] == [(6, False)] * 3 + [(12, True)] * 3
    assert report.cost is not None
    assert report.cost.runs == 6
    assert plain.curve == ()
    assert evaluate(both, tmp_path / "plain", quiet).curve == report.curve  # another report, not only read


def test_arms_on_fewer_rows_alone_are_refused(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    arms = tuple(arm.model_copy(update={"size": 6}) for arm in spec.arms)
    with pytest.raises(InvalidRequest, match="no candidate was trained on all rows") as caught:
        evaluate(spec.model_copy(update={"arms": arms}), tmp_path / "out", quiet)
    assert caught.value.param == "arms"


def test_the_parts_are_about_the_published_student(make_spec: MakeSpec, tmp_path: Path) -> None:
    figures = Faithfulness(
        comprehensiveness=0.4, sufficiency=0.1, aopc_comprehensiveness=0.3, aopc_sufficiency=0.2, log_odds=-1.0
    )
    spec = make_spec(
        seeds=2,
        top_k=2,
        validation={"rationale_gate": 0.9},
        searched=(Searched(recipe="finetune", validation_accuracy=0.5, steps=5, kept=True),),
        map_faithfulness=MapFaithfulness(method="saliency", found=(figures,), random=(figures,)),
    )
    report = evaluate(spec, tmp_path / "out", quiet)
    run = report.student.seeds[1]
    assert report.confusion is not None
    assert report.confusion.counts is not None
    assert sum(counts[i] for i, counts in enumerate(report.confusion.counts)) == round(12 * run.accuracy)
    assert [(one.model, one.seed) for one in report.calibration] == [
        ("teacher", None),
        ("finetune", 1),
        ("rationale_gate", 1),
    ]
    assert report.calibration[2].accuracy == pytest.approx(run.accuracy)
    assert report.calibration[0].confidence == pytest.approx(0.9)
    assert [cell.model for cell in report.slices[0].cells] == ["teacher", "finetune", "rationale_gate"]
    assert [one.reference for one in report.agreement] == ["teacher"]
    assert report.agreement[0].rows == sum("the" in text.split(" ") for text in SENTENCES)
    assert report.words
    assert all(word.text == "the" for one in report.words for word in one.teacher)
    assert report.searched == spec.searched
    assert report.teacher_map is not None
    assert report.teacher_map.measures[0].difference.value == 0
    assert report.profile is not None
    assert report.profile.rows == sum(report.profile.labels.values()) == 12
    assert report.profile.labels == {
        label: sum(counts[place] for counts in report.confusion.counts)
        for place, label in enumerate(report.confusion.labels)
    }
    asked = PredictionRequest(inputs=("a film",)).top_k  # and not the two of the job: requests are compared with it
    assert (report.profile.words_found, report.profile.words_dropped) == (12 * asked, 0)
    assert report.profile.top_k == asked


@pytest.mark.parametrize(
    ("validation", "expected"),
    [
        ({"finetune": 0.9}, "finetune"),
        ({"rationale_gate": 0.9}, "rationale_gate"),
        ({}, "finetune"),  # level: the plainer one
        ({"rationale_gate+random_rationale": 1.0}, "finetune"),  # a control is never published
    ],
)
def test_the_published_arm_is_chosen_on_validation_alone(
    make_spec: MakeSpec, tmp_path: Path, validation: dict[str, float], expected: str
) -> None:
    published = evaluate(make_spec(seeds=2, validation=validation), tmp_path / "out", quiet).published
    assert (published.recipe, published.seed) == (expected, 1)
    assert published.artifact == f"model-{expected}-1"
    assert "The test split had no part in the choice" in published.why


def test_what_is_finished_is_only_read(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    first = evaluate(spec, tmp_path / "out", quiet)
    spec.test.unlink()
    assert evaluate(spec, tmp_path / "out", quiet) == first


def test_a_report_on_other_models_is_not_read_as_this_one(make_spec: MakeSpec, tmp_path: Path) -> None:
    evaluate(make_spec(seeds=1), tmp_path / "out", quiet)
    assert {len(arm.seeds) for arm in evaluate(make_spec(seeds=2), tmp_path / "out", quiet).arms} == {2}


def test_progress_counts_rows_of_all_arms(make_spec: MakeSpec, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    evaluate(make_spec(), tmp_path / "out", lambda done, total: told.append((done, total)))
    assert told == [(12, 36), (24, 36), (36, 36)]


def test_examples_show_right_and_wrong_answers_with_words_of_the_text(make_spec: MakeSpec, tmp_path: Path) -> None:
    report = evaluate(make_spec(validation={"rationale_gate": 0.9}), tmp_path / "out", quiet)
    assert {one.right for one in report.examples} == {True, False}
    for one in report.examples:
        assert one.right == (one.given == one.expected)
        assert one.words
        assert all(one.input[word.start : word.end] == word.text for word in one.words)


def test_facts_of_size_and_speed_are_measured(
    make_spec: MakeSpec, tmp_path: Path, students: dict[tuple[str, int], Path]
) -> None:
    arm = evaluate(make_spec(), tmp_path / "out", quiet).arm("finetune")
    weights = (students["mean", 0] / "model.safetensors").stat().st_size
    assert arm.size_mb == weights / 1e6
    assert arm.parameters * 4 == pytest.approx(weights, rel=0.2)
    assert 0 < arm.latency_ms < 1000
    assert (arm.steps, arm.seconds) == (10, 1.5)


def test_a_teacher_that_answered_other_rows_is_refused(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    spec.teacher.predictions.write_text(spec.teacher.predictions.read_text().split("\n")[0] + "\n")
    with pytest.raises(InvalidRequest, match="answered 1 rows and the test split has 12") as caught:
        evaluate(spec, tmp_path / "out", quiet)
    assert caught.value.param == "teacher.predictions"


def test_an_empty_test_split_is_refused(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    write_examples(spec.test, [])
    with pytest.raises(InvalidRequest, match="nothing to evaluate on"):
        evaluate(spec, tmp_path / "out", quiet)


def test_a_choice_task_is_answered_from_each_rows_choices(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    rows = [
        Example(id=str(i), input=text, output=text.split()[0], choices=(text.split()[0], "music", "rain"))
        for i, text in enumerate(SENTENCES)
    ]
    write_examples(spec.test, rows)
    folder = tiny_seq2seq(tmp_path / "writer")
    task = TaskSpec(kind="choice")
    (folder / "task.json").write_text(task.model_dump_json())
    arm: ArmResult = spec.arms[0].model_copy(update={"model": folder})
    report = evaluate(spec.model_copy(update={"task": task, "arms": (arm,), "annotated": ()}), tmp_path / "out", quiet)
    assert report.baseline.accuracy == pytest.approx(1 / 3)
    assert all(one.given in one.input or one.given in ("music", "rain") for one in report.examples)
    assert report.comparisons == ()
    assert "there is no other" in report.published.why


def test_expected_answers_that_the_student_does_not_write_to_their_end_are_counted(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec()
    outputs = ["rain " * 100, *["rain"] * (len(SENTENCES) - 1)]
    rows = [Example(id=str(i), input=text, output=outputs[i]) for i, text in enumerate(SENTENCES)]
    write_examples(spec.test, rows)
    arm = spec.arms[0].model_copy(update={"model": tiny_seq2seq(tmp_path / "writer")})
    said = [json.loads(line) for line in spec.teacher.predictions.read_text().splitlines()]
    lines = [line | {"unfinished": i < 2} for i, line in enumerate(said)]
    spec.teacher.predictions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = evaluate(
        spec.model_copy(update={"task": TaskSpec(), "arms": (arm,), "annotated": ()}), tmp_path / "out", quiet
    )
    cautions = " ".join(report.caveats)
    assert f"1 of {spec.rows.test:,} test rows have an expected answer that is longer" in cautions
    assert f"2 of the teacher's {spec.rows.test:,} answers" in cautions


def test_a_student_that_was_moved_away_is_reported_by_name(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    gone = tmp_path / "gone"
    shutil.copytree(spec.arms[0].model, gone)
    (gone / "config.json").unlink()
    arm = spec.arms[0].model_copy(update={"model": gone})
    with pytest.raises(ModelNotFound, match="'gone' holds no model"):
        evaluate(spec.model_copy(update={"arms": (arm,)}), tmp_path / "out", quiet)


def test_texts_that_were_cut_are_told_of(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    long = Example(id="long", input="far too long " * 500, output=TARGETS[0])
    write_examples(spec.test, [long, *read_examples(spec.test)[1:]])
    arms = tuple(arm.model_copy(update={"truncated": 5}) for arm in spec.arms)
    report = evaluate(spec.model_copy(update={"arms": arms}), tmp_path / "out", quiet)
    assert any("read 5 of 12 training rows and 1 of 12 test rows" in caveat for caveat in report.caveats)
