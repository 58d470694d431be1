"""Which recipe helps, at which training-set size, for which student, against which controls?

    python benchmarks/bench_recipes.py --rows 300 1000 0 --seeds 5
    python benchmarks/bench_recipes.py --name sst2 --data FOLDER --teacher FOLDER --student cut:2 --teacher-share 0.5 \
        --rows 100 300 --unlabelled 2000
    python benchmarks/bench_recipes.py --name people --data FOLDER --teacher FOLDER --student cut:2 --words people
    python benchmarks/bench_recipes.py --quick

The data are the docstrings of the quickstart, or a folder with `train.jsonl`, `test.jsonl` and perhaps
`validation.jsonl`. A teacher is fine-tuned and marks its words. Students are trained on the rows with the smallest
content hashes (0 means all of them) and compared by the project's own evaluation stage. With `--teacher-share` the
teacher learns from that part of the training rows and the students from the rest, so that it knows something that they
do not; `--unlabelled` rows of the rest are handed out without their answers. With `--words people` the rationale is
what people marked and not what the teacher did: what would words be worth that are right? What is finished is not done
again, so the command may be ended and repeated; what had other rows than it would have now is done anew. Writes
`results/recipes_<name>.json` (not with --quick); the last line is JSON: each candidate's accuracy minus that of
`finetune` at the smallest size.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from understudy.artifacts import file_sha256
from understudy.attribution.attribute import attribute
from understudy.attribution.plausibility import highlighted
from understudy.data.docstrings import docstring_examples
from understudy.data.parquet import AnnotatedExample, read_examples, write_annotated, write_examples
from understudy.data.split import remove_leaks, split_examples
from understudy.data.task import infer_task
from understudy.data.validate import load_split
from understudy.evaluation.manifest import weights_of
from understudy.evaluation.run import ArmResult, EvaluateSpec, RowCounts, TeacherFacts, evaluate
from understudy.explain import parse_method
from understudy.models.lengths import shared_answers
from understudy.models.load import architecture_of, load_adapter
from understudy.models.names import base_of, cut_from, is_cut
from understudy.schemas import (
    Attribution,
    AttributionExample,
    AttributionOptions,
    AttributionSpec,
    Example,
    Hyperparameters,
    Prediction,
    TaskSpec,
)
from understudy.training.plan import Precision
from understudy.training.recipes import Arm, Offer, plan_arms
from understudy.training.run import train
from understudy.training.spec import TrainResult, TrainSpec
from understudy.training.views import Row, select_rows

RESULTS = Path(__file__).parent / "results"
TOKENS = AttributionSpec().token_probabilities
"""Of an open answer's places the likeliest tokens that `logit_kd` learns from: a job's default."""


@dataclass(frozen=True)
class Bench:
    """What all sizes share. `teacher` is the trained one, `student` a reference that needs nothing else."""

    work: Path
    task: TaskSpec
    teacher: TrainResult
    student: str
    arms: tuple[Arm, ...]
    options: argparse.Namespace

    @property
    def unlabelled(self) -> tuple[Path, ...]:
        return (self.work / "unlabelled.parquet",) if self.options.unlabelled else ()


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as aside:
        work = (Path(aside) if options.quick else options.work) / options.name
        work.mkdir(parents=True, exist_ok=True)
        bench, annotate_seconds = _prepare(work, options)
        sizes = [_students(bench, rows) for rows in options.rows]
    result = {
        "date": options.date,
        "command": " ".join(["python", "benchmarks/bench_recipes.py", *_shown(sys.argv[1:])]),
        "threads": options.threads,
        "teacher": {
            "model": Path(options.teacher).name,
            **bench.teacher.model_dump(mode="json", exclude={"model"}),
        },
        "method": options.method,
        "words": options.words,
        "annotate_seconds": annotate_seconds,
        "sizes": sizes,
    }
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"recipes_{options.name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    comparisons = sizes[0]["report"]["comparisons"]
    print(json.dumps({one["arm"]: round(one["difference"], 4) for one in comparisons if one["against"] == "finetune"}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps of few arms, under a minute, nothing written")
    parser.add_argument("--data", type=Path, help="a folder of JSON lines; the default is the docstring data")
    parser.add_argument("--name", default="docstrings", help="names the result file")
    parser.add_argument("--rows", type=int, nargs="+", default=[300, 1000, 0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recipes", nargs="+", default=["auto"])
    parser.add_argument("--teacher", default="scratch:bert-2x128")
    parser.add_argument("--student", default="scratch:bert-1x64", help="cut:2 is cut from the trained teacher")
    parser.add_argument("--teacher-share", type=float, default=0.0, help="of the training rows, for the teacher alone")
    parser.add_argument("--unlabelled", type=int, default=0, help="training rows whose answers are hidden")
    parser.add_argument("--teacher-steps", type=int, help="exactly so many; the default is auto")
    parser.add_argument("--student-steps", type=int, help="exactly so many; the default is auto")
    parser.add_argument("--rationale-weight", type=float, default=1.0)
    parser.add_argument("--method", default="saliency", help="what marks the words: integrated_gradients:n_steps=20")
    parser.add_argument(
        "--words", choices=["teacher", "people"], default="teacher", help="whose words are the rationale"
    )
    parser.add_argument("--validation", type=int, help="at most so many rows of it")
    parser.add_argument("--test", type=int, help="at most so many rows of it")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto", help="of the trainings")
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, a process each")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--work", type=Path, default=Path(".understudy") / "experiments")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.seeds, options.recipes = [200], 1, ["rationale_gate"]
        options.teacher_steps, options.student_steps = 60, 40
    return options


def _shown(arguments: Sequence[str]) -> list[str]:
    """The arguments without the place of somebody's folders."""
    return [Path(one).name if "/" in one else one for one in arguments]


def _prepare(work: Path, options: argparse.Namespace) -> tuple[Bench, float]:
    """Data, teacher and annotation; and the seconds of the latter."""
    task = _data(work, options)
    teacher = _teacher(work, task, options)
    seconds = _annotate(work, task, teacher, options)
    student = cut_from(options.student, str(teacher.model))
    offers: list[Offer] = ["unlabelled"] if options.unlabelled else []
    labelled = read_examples(work / "train.parquet")
    if task.kind == "generation" and shared_answers(str(teacher.model), student, labelled, task):
        offers.append("tokens")
    if any(row.rationale for row in labelled):
        offers.append("rationale")
    arms = plan_arms(options.recipes, architecture_of(student), task, offers)
    return Bench(work, task, teacher, student, tuple(arms), options), seconds


def _data(work: Path, options: argparse.Namespace) -> TaskSpec:
    if options.data is None:
        found = split_examples(docstring_examples(), validation=0.15, test=0.15, seed=0)
    else:
        read = {path.stem: load_split(path, path.stem)[0] for path in sorted(options.data.glob("*.jsonl"))}
        train_rows, validation = read["train"], read.get("validation", ())
        if not validation:
            train_rows, validation, _ = split_examples(train_rows, validation=0.15, test=0.0, seed=0)
        found = (*remove_leaks(train_rows, validation, read["test"])[:2], read["test"])
    rest, own = list(found[0]), list(found[0])
    if options.teacher_share:
        rest, own, _ = split_examples(found[0], validation=options.teacher_share, test=0.0, seed=1)
    labelled = _first(rest, max(options.rows) if min(options.rows) else None)
    known = {row.id for row in labelled}
    splits = {
        "teacher": own,
        "train": labelled,
        "validation": _first(found[1], options.validation),
        "test": _first(found[2], options.test),
        "hidden": _first([row for row in rest if row.id not in known], options.unlabelled),
    }
    for name, rows in splits.items():
        write_examples(work / f"{name}.parquet", rows)
    return infer_task(found[0])


def _first(rows: Sequence[Example], most: int | None) -> list[Example]:
    """At most so many, those with the smallest content hashes, as `sizes` of a job draws them."""
    return [row.example for row in select_rows([Row(row) for row in rows], most)]


def _teacher(work: Path, task: TaskSpec, options: argparse.Namespace) -> TrainResult:
    spec = TrainSpec(
        model=options.teacher,
        task=task,
        train=(work / "teacher.parquet",),
        annotated=False,
        validation=work / "validation.parquet",
        hyperparameters=_steps(options.teacher_steps, options.precision),
    )
    result = train(spec, work / f"teacher-{_slug(options.teacher)}", lambda _: None)
    print(f"teacher: validation {result.validation_accuracy:.3f} in {result.seconds:.0f} s", flush=True)
    return result


def _annotate(work: Path, task: TaskSpec, teacher: TrainResult, options: argparse.Namespace) -> float:
    """Write the annotated rows and the teacher's answers to the test split; return the seconds of the former."""
    adapter = load_adapter(str(teacher.model), device="cpu")
    method, settings = parse_method(options.method)
    asked = AttributionOptions(
        labels=task.labels or None,
        method=method,
        settings=settings,
        top_k=options.top_k,
        token_probabilities=TOKENS if task.kind == "generation" else 0,
    )
    started = time.perf_counter()
    rows = read_examples(work / "train.parquet")
    gold = [AttributionExample(id=row.id, input=row.input, output=row.output, choices=row.choices) for row in rows]
    found = attribute(adapter, gold, asked.model_copy(update={"target": "gold"}))
    if options.words == "people":
        found = [_peoples(one, row.highlights or ()) for one, row in zip(found, rows, strict=True)]
    pairs = zip(rows, found, strict=True)
    write_annotated(work / "annotated.parquet", [AnnotatedExample(example=a, attribution=b) for a, b in pairs])
    hidden = read_examples(work / "hidden.parquet")
    open_ = [AttributionExample(id=row.id, input=row.input, choices=row.choices) for row in hidden]
    taught = [
        AnnotatedExample(example=_answered(row, said.prediction), attribution=said)
        for row, said in zip(hidden, attribute(adapter, open_, asked) if hidden else [], strict=True)
    ]
    write_annotated(work / "unlabelled.parquet", taught)
    seconds = time.perf_counter() - started
    test = read_examples(work / "test.parquet")
    answers = adapter.answers([row.input for row in test], [row.choices for row in test])
    lines = [
        Prediction(
            id=row.id, label=answer.text, probability=answer.probability, probabilities=answer.probabilities
        ).model_dump_json()
        for row, answer in zip(test, answers, strict=True)
    ]
    (work / "teacher.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return round(seconds, 1)


def _peoples(found: Attribution, highlights: Sequence[tuple[int, int]]) -> Attribution:
    """The attribution with the words that people marked as its rationale; none where they marked none."""
    marked = zip(found.words, highlighted(found.words, highlights), strict=True)
    return found.model_copy(update={"rationale": tuple(word for word, inside in marked if inside)})


def _answered(row: Example, answer: str | None) -> Example:
    """The row with the teacher's answer in the place of its own."""
    return row.model_copy(update={"output": answer})


def _students(bench: Bench, rows: int) -> dict[str, Any]:
    place = bench.work / f"{_slug(bench.options.student)}-{_slug(bench.options.method)}-{bench.options.words}-{rows}"
    started = time.perf_counter()
    runs = [(arm, seed) for seed in range(bench.options.seeds) for arm in bench.arms]
    specs = [_spec(bench, rows, arm, seed) for arm, seed in runs]
    folders = [place / f"{arm.name}-{seed}" for arm, seed in runs]
    trained = _train_all(specs, folders, bench.options)
    report = evaluate(
        _evaluation(bench, list(zip(runs, trained, strict=True)), rows), place / "report", lambda *_: None
    )
    for sentence in report.summary:
        print(sentence, flush=True)
    kept = report.model_dump(mode="json", exclude={"examples", "task", "rule"})
    return {"rows": rows, "wall_seconds": round(time.perf_counter() - started, 1), "report": kept}


def _spec(bench: Bench, rows: int, arm: Arm, seed: int) -> TrainSpec:
    return TrainSpec(
        model=bench.student,
        task=bench.task,
        train=(bench.work / "annotated.parquet",),
        annotated=True,
        unlabelled=bench.unlabelled,
        validation=bench.work / "validation.parquet",
        recipe=arm.name,
        seed=seed,
        top_k=bench.options.top_k,
        rationale_weight=bench.options.rationale_weight,
        max_train_rows=rows or None,
        hyperparameters=_steps(bench.options.student_steps, bench.options.precision),
    )


def _steps(steps: int | None, precision: Precision) -> Hyperparameters:
    """Exactly so many, however few the rows are; None leaves them to `auto`."""
    whole = {"n_epochs": 100_000, "max_steps": steps} if steps else {}
    return Hyperparameters(precision=precision, **whole)


def _train_all(specs: Sequence[TrainSpec], folders: Sequence[Path], options: argparse.Namespace) -> list[TrainResult]:
    """In processes of their own, so that as many run at once as there are jobs; in the order of the specs."""
    found: dict[int, TrainResult] = {}
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        work = {
            pool.submit(_train, spec, folder, options.threads): place
            for place, (spec, folder) in enumerate(zip(specs, folders, strict=True))
        }
        for one in as_completed(work):
            result, spec = one.result(), specs[work[one]]
            found[work[one]] = result
            said = f"validation {result.validation_accuracy:.3f} in {result.seconds:.0f} s"
            print(f"{spec.max_train_rows or 'all'} rows, {spec.recipe}, seed {spec.seed}: {said}", flush=True)
    return [found[place] for place in range(len(specs))]


def _train(spec: TrainSpec, folder: Path, threads: int) -> TrainResult:
    torch.set_num_threads(threads)
    return train(spec, folder, lambda _: None)


def _evaluation(bench: Bench, trained: Sequence[tuple[tuple[Arm, int], TrainResult]], rows: int) -> EvaluateSpec:
    work, options = bench.work, bench.options
    counts = {split: len(read_examples(work / f"{split}.parquet")) for split in ("train", "validation", "test")}
    asked = EvaluateSpec(
        job_id=f"{options.name}-{rows or 'all'}",
        task=bench.task,
        test=work / "test.parquet",
        annotated=(work / "annotated.parquet",),
        teacher=TeacherFacts(
            model=Path(options.teacher).name,
            finetuned=True,
            parameters=bench.teacher.parameters,
            predictions=work / "teacher.jsonl",
            trained_rows=bench.teacher.instances,
            other_rows=options.teacher_share > 0,
            training_seconds=bench.teacher.seconds,
        ),
        cut_from_teacher=is_cut(bench.student) and base_of(bench.student) == str(bench.teacher.model),
        arms=tuple(
            ArmResult(
                recipe=arm.name,
                seed=seed,
                model=result.model,
                artifact=f"{arm.name}-{seed}-{_digest(*weights_of(result.model).values())}",
                validation_accuracy=result.validation_accuracy,
                steps=result.steps,
                seconds=result.seconds,
                candidate=arm.candidate,
                control_of=arm.control_of,
                batch_size=result.batch_size,
                without_words=result.without_words,
                without_distribution=result.without_distribution,
                truncated=result.truncated,
                tokens=result.tokens,
                teacher_labelled=result.teacher_labelled,
            )
            for (arm, seed), result in trained
        ),
        rows=RowCounts(
            **counts | {"train": min(rows or counts["train"], counts["train"])}, unlabelled=options.unlabelled
        ),
        top_k=options.top_k,
        attribution_method=options.method if options.words == "teacher" else "people",
    )
    # A report is known by its job and by its models, and other rows make another report of the same models.
    read = [file_sha256(work / name) for name in ("test.parquet", "annotated.parquet", "teacher.jsonl")]
    return asked.model_copy(update={"job_id": f"{asked.job_id}-{_digest(asked.model_dump_json(), *read)}"})


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _slug(ref: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in ref.rpartition("/")[2])


if __name__ == "__main__":
    main()
