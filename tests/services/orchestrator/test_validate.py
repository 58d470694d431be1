"""The phase validate: files in, a data set without leaks out, with every row that was set aside named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.orchestrator.jobs import Job
from understudy.data.parquet import read_examples
from understudy.testing import tiny_seq2seq


def dataset(bench: Any, job: Job) -> dict[str, list[str]]:
    folder = bench.context.artifacts.folder(job.facts.dataset)
    splits = ("train", "validation", "test")
    return {name: [row.input for row in read_examples(folder / f"{name}.parquet")] for name in splits}


def lines(*examples: tuple[str, str]) -> str:
    return "".join(json.dumps({"input": text, "output": label}) + "\n" for text, label in examples)


def validated(bench: Any, **changes: Any) -> Job:
    return bench.work(bench.submit(**changes), until="preflight")


def test_one_file_becomes_three_splits_a_task_and_arms(bench: Any, rows: Any) -> None:
    job = validated(bench, training_file=bench.upload(rows(120)))
    facts = job.facts
    assert facts.task.labels == ("awful", "fine", "great")
    assert facts.rows.train + facts.rows.validation + facts.rows.test == 120
    assert 12 <= facts.rows.test <= 36
    assert facts.rows.validation >= 4
    assert facts.architecture == "classifier"
    assert {arm.name for arm in facts.arms} >= {"finetune", "rationale_gate", "rationale_gate+random_rationale"}
    parts = {name: set(inputs) for name, inputs in dataset(bench, job).items()}
    assert not parts["train"] & parts["test"]
    assert not parts["train"] & parts["validation"]
    assert not parts["validation"] & parts["test"]


def test_neither_the_files_order_nor_the_jobs_seed_changes_the_splits_or_which_rows_are_the_first(
    bench: Any, rows: Any
) -> None:
    forward = rows(90)
    backward = "".join(reversed(forward.splitlines(keepends=True)))
    first = validated(bench, training_file=bench.upload(forward))
    second = validated(bench, training_file=bench.upload(backward), spec={"seeds": [7]})
    assert dataset(bench, first)["train"] == dataset(bench, second)["train"]
    for split in ("validation", "test"):
        assert sorted(dataset(bench, first)[split]) == sorted(dataset(bench, second)[split])


def test_files_for_validation_and_test_are_used_whole_and_training_rows_that_leak_are_set_aside(
    bench: Any, rows: Any
) -> None:
    all_rows = rows(60).splitlines(keepends=True)
    job = validated(
        bench,
        training_file=bench.upload("".join(all_rows[:45])),  # 5 of them are in validation, 2 in test
        validation_file=bench.upload("".join(all_rows[40:50] + all_rows[58:])),
        spec={"test_file": bench.upload("".join(all_rows[50:] + all_rows[:2]))},
    )
    assert (job.facts.rows.train, job.facts.rows.validation, job.facts.rows.test) == (38, 10, 12)
    assert job.facts.rows.rejected == 9
    assert {row.reason for row in job.facts.rejected_rows} == {
        "the validation split has the same input",
        "the test split has the same input",
    }


def test_each_bad_row_is_listed_with_its_line_and_the_rest_is_used(bench: Any, rows: Any) -> None:
    content = rows(60) + '{"input": ""}\nnot json\n' + lines(("The film number 0 was awful I think", "awful"))
    job = validated(bench, training_file=bench.upload(content))
    assert [(row.line, row.split) for row in job.facts.rejected_rows] == [(61, "train"), (62, "train"), (63, "train")]
    assert job.facts.rows.rejected == 3
    kept = (bench.context.artifacts.folder(job.facts.dataset) / "rejected.jsonl").read_text().splitlines()
    assert len(kept) == 3
    assert any("3 rows were set aside" in message for message in bench.messages(job))


def test_a_file_without_a_valid_row_fails_the_job_and_names_the_file_and_the_field(bench: Any) -> None:
    job = validated(bench, training_file=bench.upload("nonsense\n", "my rows.jsonl"))
    assert job.status == "failed"
    assert job.error.param == "training_file"
    assert "my rows.jsonl" in job.error.message


def test_too_few_rows_say_how_many_there_are_and_are_needed(bench: Any, rows: Any) -> None:
    job = validated(bench, training_file=bench.upload(rows(9)))
    assert (job.status, job.error.param) == ("failed", "training_file")
    assert "needs at least 10" in job.error.message


def test_a_file_of_one_row_many_times_says_that_the_others_were_set_aside(bench: Any) -> None:
    job = validated(bench, training_file=bench.upload(lines(*[("a text", "good")] * 30)))
    assert (job.status, job.error.param) == ("failed", "training_file")
    assert "29 rows were set aside; the first is line 2 of train: the same input as line 1" in job.error.message


def test_a_test_file_with_labels_that_nobody_learns_fails_by_its_own_name(bench: Any, rows: Any) -> None:
    unknown = bench.upload(lines(("a text", "wonderful"), ("another text", "wonderful")))
    job = validated(bench, training_file=bench.upload(rows(60)), spec={"test_file": unknown})
    assert (job.status, job.error.param) == ("failed", "method.distillation.test_file")


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"spec": {"recipe": "label_then_rationale"}}, "method.distillation.recipe", "rationale_gate"),
        (
            {"model": "scratch:gpt2-1x16", "spec": {"recipe": "rationale_gate"}},
            "method.distillation.recipe",
            "causal",
        ),
        ({"spec": {"recipe": "teacher_labels"}}, "method.distillation.recipe", "unlabelled_file"),
        ({"model": "scratch:t5-1x16", "spec": {"recipe": "step_by_step"}}, "method.distillation.recipe", "free-text"),
    ],
)
def test_a_recipe_that_does_not_fit_the_student_or_the_rows_says_which_do(
    bench: Any, changes: Any, param: str, words: str
) -> None:
    job = validated(bench, **changes)
    assert (job.status, job.error.param) == ("failed", param)
    assert words in job.error.message


def test_a_student_that_fits_no_recipe_at_all_is_the_field_at_fault(bench: Any) -> None:
    questions = [{"input": f"is {i} odd?", "output": ["yes", "no"][i % 2], "choices": ["yes", "no"]} for i in range(60)]
    content = "".join(json.dumps(row) + "\n" for row in questions)
    job = validated(bench, training_file=bench.upload(content), spec={"recipe": "auto"})
    assert (job.status, job.error.param) == ("failed", "model")
    assert "seq2seq student" in job.error.message


@pytest.mark.usefixtures("fork_server")
def test_the_students_architecture_is_read_from_a_model_that_exists(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}')
    job = validated(bench, model=str(tmp_path), spec={"recipe": "saliency"})
    assert job.facts.architecture == "seq2seq"
    assert [arm.name for arm in job.facts.arms] == ["finetune", "saliency", "saliency+random_rationale"]


@pytest.mark.usefixtures("fork_server")
def test_a_student_that_cannot_be_found_fails_the_job_by_the_field_model(bench: Any) -> None:
    job = validated(bench, model="no/such-model")
    assert (job.status, job.error.code, job.error.param) == ("failed", "model_not_found", "model")


@pytest.mark.parametrize(("sizes", "words"), [([9, 20], "9 rows"), ([20, 400], "400 rows"), ([20, 30], "30 rows")])
def test_a_size_of_the_learning_curve_is_neither_too_small_nor_all_rows(
    bench: Any, rows: Any, sizes: list[int], words: str
) -> None:
    job = validated(bench, training_file=bench.upload(rows(80)), spec={"sizes": sizes, "max_train_rows": 30})
    assert (job.status, job.error.param) == ("failed", "method.distillation.sizes")
    assert words in job.error.message
    assert "at least 10 and below 30, the number of training rows" in job.error.message


@pytest.mark.parametrize(
    ("share", "recipe", "reads"),
    [(1.0, "auto", True), (0.7, "auto", True), (0.1, "auto", False), (0.1, "step_by_step", True)],
)
def test_auto_reads_free_text_rationales_where_half_the_rows_have_one_and_a_recipe_by_name_where_any_does(
    bench: Any, share: float, recipe: str, reads: bool
) -> None:
    def row(i: int) -> dict[str, Any]:
        text = {"rationale": f"because of {i}"} if i % 100 < 100 * share else {}
        return {"input": f"number {i} is {'odd' if i % 2 else 'even'}", "output": ["no", "yes"][i % 2], **text}

    content = "".join(json.dumps(row(i * 7)) + "\n" for i in range(100))
    job = validated(bench, model="scratch:t5-1x16", training_file=bench.upload(content), spec={"recipe": recipe})
    assert ("step_by_step" in {arm.name for arm in job.facts.arms}) == reads


def test_a_student_cut_from_the_teacher_has_its_architecture_and_becomes_a_cut_of_it_as_it_was_trained(
    bench: Any,
) -> None:
    teacher = {"model": "scratch:t5-1x16", "finetune": True}
    job = validated(bench, model="cut:1", spec={"teacher": teacher, "recipe": "saliency"})
    assert (job.facts.architecture, job.student) == ("seq2seq", "cut:1")
    assert job.with_facts(teacher="model-0123").student == "cut:1@model-0123"
    assert job.with_facts(teacher="model-0123").cut_from_teacher
    assert not bench.job(model="cut:1x1@other").with_facts(teacher="model-0123").cut_from_teacher
    assert bench.job(model="cut:1x1@other").with_facts(teacher="model-0123").student == "cut:1x1@other"


@pytest.mark.usefixtures("fork_server")
def test_the_architecture_of_a_cut_is_that_of_the_model_it_names(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}')
    job = validated(bench, model=f"cut:1@{tmp_path}", spec={"recipe": "saliency"})
    assert (job.facts.architecture, job.student) == ("seq2seq", f"cut:1@{tmp_path}")


LONG = " ".join(f"word{i}" for i in range(700))


def open_rows(count: int, *outputs: str, **more: Any) -> str:
    """An open task, then rows with these outputs."""
    given = [*(f"{i} and {i % 7}" for i in range(count)), *outputs]
    made = ({"input": f"say {i} aloud{more.get('tag', '')}", "output": output} for i, output in enumerate(given))
    return "".join(json.dumps(row) + "\n" for row in made)


@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize("student", ["scratch:t5-1x16", "scratch:gpt2-1x16"])
def test_a_row_that_no_training_has_room_for_is_set_aside_with_its_field(bench: Any, student: str) -> None:
    job = validated(
        bench,
        model=student,
        training_file=bench.upload(open_rows(40, LONG)),
        validation_file=bench.upload(open_rows(10, LONG, tag=" again")),
        spec={"test_file": bench.upload(open_rows(10, LONG, tag=" at last")), "recipe": "finetune"},
    )
    assert [(row.split, row.line, row.param) for row in job.facts.rejected_rows] == [
        ("train", 41, "output"),
        ("validation", 11, "output"),
    ]
    reason = job.facts.rejected_rows[0].reason
    assert "tokens of the student, whose window has room for 4" in reason
    assert "shorten it, or take a model with a longer window" in reason
    assert (job.facts.rows.train, job.facts.rows.validation, job.facts.rows.test) == (40, 10, 11)


@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize("finetune", [True, False])
def test_a_teacher_that_is_trained_has_to_have_room_for_validation_rows_too(
    bench: Any, tmp_path: Path, finetune: bool
) -> None:
    """The student has 512 tokens, its teacher 64."""
    teacher = {"model": str(tiny_seq2seq(tmp_path / "teacher")), "finetune": finetune}
    job = validated(
        bench,
        model="scratch:t5-1x16",
        training_file=bench.upload(open_rows(40, "rain " * 60)),
        validation_file=bench.upload(open_rows(10, "rain " * 60, tag=" again")),
        spec={
            "teacher": teacher,
            "recipe": "finetune",
            "test_file": bench.upload(open_rows(10, "rain " * 60, tag=" at last")),
        },
    )
    assert [row.split for row in job.facts.rejected_rows] == ["train", "validation"][: 1 + finetune]
    assert "tokens of the teacher, whose window has room for 48" in job.facts.rejected_rows[0].reason


@pytest.mark.usefixtures("fork_server")
def test_a_choice_that_does_not_fit_is_the_field_at_fault_in_every_split(bench: Any) -> None:
    def asked(tag: str) -> str:
        rows = (
            {"input": f"is {i} odd{tag}?", "output": ["yes", "no"][i % 2], "choices": ["yes", "no"] + [LONG] * (i == 3)}
            for i in range(20)
        )
        return "".join(json.dumps(row) + "\n" for row in rows)

    files = [bench.upload(asked(tag)) for tag in ("", " really", " at all")]
    job = validated(
        bench,
        model="scratch:t5-1x16",
        training_file=files[0],
        validation_file=files[1],
        spec={"test_file": files[2], "recipe": "finetune"},
    )
    assert [(row.split, row.line, row.param) for row in job.facts.rejected_rows] == [
        (split, 4, "choices") for split in ("train", "validation", "test")
    ]


@pytest.mark.usefixtures("fork_server")
def test_where_nearly_all_outputs_are_too_long_the_job_fails_and_says_why(bench: Any) -> None:
    long = [f"{i} {LONG}" for i in range(50)]
    job = validated(bench, model="scratch:t5-1x16", training_file=bench.upload(open_rows(5, *long)))
    assert (job.status, job.error.param) == ("failed", "training_file")
    assert "rows were set aside; the first is line" in job.error.message
    assert "output takes" in job.error.message
