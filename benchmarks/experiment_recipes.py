"""Every recipe that fits a small classifier, at several amounts of training data.

    python benchmarks/experiment_recipes.py --rows 300 1000 0 --seeds 5
    python benchmarks/experiment_recipes.py --data FOLDER --rows 300 1000 --seeds 3
    python benchmarks/experiment_recipes.py --name docstrings_ig --method integrated_gradients --rows 300 --seeds 5

The data are the docstrings of the quickstart, or a folder with `train.jsonl`, `validation.jsonl` and `test.jsonl`. A
teacher is trained from scratch on the whole training split and marks its words; students are trained on the rows with
the smallest content hashes (0 means all of them) and compared by the project's own evaluation stage. What is finished
is not done again, so the command may be ended and repeated. Writes `results/recipes_<name>.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from understudy.attribution.attribute import attribute
from understudy.data.docstrings import docstring_examples
from understudy.data.parquet import AnnotatedExample, read_examples, write_annotated, write_examples
from understudy.data.split import remove_leaks, split_examples
from understudy.data.task import infer_task
from understudy.data.validate import load_split
from understudy.evaluation.run import ArmResult, EvaluateSpec, RowCounts, TeacherFacts, evaluate
from understudy.explain import parse_method
from understudy.models.load import load_adapter
from understudy.schemas import AttributionExample, AttributionOptions, Hyperparameters, Prediction, TaskSpec
from understudy.training.recipes import plan_arms
from understudy.training.run import train
from understudy.training.spec import TrainResult, TrainSpec
from understudy.training.views import Row, select_rows

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    work = options.work / options.name
    work.mkdir(parents=True, exist_ok=True)
    task = _data(work, options.data)
    teacher = _teacher(work, task, options)
    annotate_seconds = _annotate(work, task, teacher, options)
    sizes = [_students(work, task, teacher, rows, options) for rows in options.rows]
    result = {
        "date": options.date,
        "command": " ".join(["python", "benchmarks/experiment_recipes.py", *_shown(sys.argv[1:])]),
        "threads": options.threads,
        "teacher": {"model": options.teacher, **teacher.model_dump(mode="json", exclude={"model"})},
        "method": options.method,
        "annotate_seconds": annotate_seconds,
        "sizes": sizes,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"recipes_{options.name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder of JSON lines; the default is the docstring data")
    parser.add_argument("--name", default="docstrings", help="names the result file")
    parser.add_argument("--rows", type=int, nargs="+", default=[300, 1000, 0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--teacher", default="scratch:bert-2x128")
    parser.add_argument("--student", default="scratch:bert-1x64")
    parser.add_argument("--teacher-steps", type=int, help="at most so many; the default is auto")
    parser.add_argument("--student-steps", type=int, help="at most so many; the default is auto")
    parser.add_argument("--method", default="saliency", help="what marks the words: integrated_gradients:n_steps=20")
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--work", type=Path, default=Path(".understudy") / "experiments")
    return parser.parse_args()


def _shown(arguments: Sequence[str]) -> list[str]:
    """The arguments without the place of somebody's folders."""
    return [Path(one).name if "/" in one else one for one in arguments]


def _data(work: Path, folder: Path | None) -> TaskSpec:
    if folder is None:
        found = split_examples(docstring_examples(), validation=0.15, test=0.15, seed=0)
    else:
        train_rows, validation, test = (
            load_split(folder / f"{split}.jsonl", split)[0] for split in ("train", "validation", "test")
        )
        found = (*remove_leaks(train_rows, validation, test)[:2], test)
    for name, rows in zip(("train", "validation", "test"), found, strict=True):
        write_examples(work / f"{name}.parquet", rows)
    return infer_task(found[0])


def _teacher(work: Path, task: TaskSpec, options: argparse.Namespace) -> TrainResult:
    spec = TrainSpec(
        model=options.teacher,
        task=task,
        train=(work / "train.parquet",),
        annotated=False,
        validation=work / "validation.parquet",
        hyperparameters=Hyperparameters(max_steps=options.teacher_steps),
    )
    result = train(spec, work / f"teacher-{_slug(options.teacher)}", lambda _: None)
    print(f"teacher: validation {result.validation_accuracy:.3f} in {result.seconds:.0f} s", flush=True)
    return result


def _annotate(work: Path, task: TaskSpec, teacher: TrainResult, options: argparse.Namespace) -> float:
    """Write the annotated rows and the teacher's answers to the test split; return the seconds of the former."""
    adapter = load_adapter(str(teacher.model), device="cpu")
    started = time.perf_counter()
    rows = read_examples(work / "train.parquet")
    asked = [AttributionExample(id=row.id, input=row.input, output=row.output) for row in rows]
    method, settings = parse_method(options.method)
    wanted = AttributionOptions(
        target="gold", labels=task.labels, method=method, settings=settings, top_k=options.top_k
    )
    found = attribute(adapter, asked, wanted)
    seconds = time.perf_counter() - started
    pairs = zip(rows, found, strict=True)
    write_annotated(work / "annotated.parquet", [AnnotatedExample(example=a, attribution=b) for a, b in pairs])
    test = read_examples(work / "test.parquet")
    answers = adapter.answers([row.input for row in test])
    lines = [
        Prediction(id=row.id, label=answer.text, probability=answer.probability).model_dump_json()
        for row, answer in zip(test, answers, strict=True)
    ]
    (work / "teacher.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return round(seconds, 1)


def _students(
    work: Path, task: TaskSpec, teacher: TrainResult, rows: int, options: argparse.Namespace
) -> dict[str, Any]:
    place = work / f"{_slug(options.student)}-{rows}"
    arms = plan_arms("auto", "classifier", task)
    started = time.perf_counter()
    trained = []
    for seed in range(options.seeds):
        for arm in arms:
            spec = TrainSpec(
                model=options.student,
                task=task,
                train=(work / "annotated.parquet",),
                annotated=True,
                validation=work / "validation.parquet",
                recipe=arm.name,
                seed=seed,
                top_k=options.top_k,
                max_train_rows=rows or None,
                hyperparameters=Hyperparameters(max_steps=options.student_steps),
            )
            result = train(spec, place / f"{arm.name}-{seed}", lambda _: None)
            print(f"{rows} rows, {arm.name}, seed {seed}: {result.validation_accuracy:.3f}", flush=True)
            trained.append((arm, seed, result))
    report = evaluate(_evaluation(work, task, teacher, trained, rows, options), place / "report", lambda *_: None)
    for sentence in report.summary:
        print(sentence, flush=True)
    kept = report.model_dump(mode="json", exclude={"examples", "task", "rule"})
    return {"rows": rows, "wall_seconds": round(time.perf_counter() - started, 1), "report": kept}


def _evaluation(
    work: Path, task: TaskSpec, teacher: TrainResult, trained: Sequence[Any], rows: int, options: argparse.Namespace
) -> EvaluateSpec:
    used = len(select_rows([Row(row) for row in read_examples(work / "train.parquet")], rows or None))
    return EvaluateSpec(
        job_id=f"{options.name}-{rows or 'all'}",
        task=task,
        test=work / "test.parquet",
        annotated=(work / "annotated.parquet",),
        teacher=TeacherFacts(
            model=options.teacher,
            finetuned=True,
            parameters=teacher.parameters,
            predictions=work / "teacher.jsonl",
            trained_rows=teacher.instances,
        ),
        arms=tuple(
            ArmResult(
                recipe=arm.name,
                seed=seed,
                model=result.model,
                artifact=f"{arm.name}-{seed}",
                validation_accuracy=result.validation_accuracy,
                steps=result.steps,
                seconds=result.seconds,
                candidate=arm.candidate,
                control_of=arm.control_of,
                batch_size=result.batch_size,
                without_words=result.without_words,
            )
            for arm, seed, result in trained
        ),
        rows=RowCounts(
            train=used,
            validation=len(read_examples(work / "validation.parquet")),
            test=len(read_examples(work / "test.parquet")),
        ),
        top_k=options.top_k,
    )


def _slug(ref: str) -> str:
    return ref.replace(":", "-")


if __name__ == "__main__":
    main()
