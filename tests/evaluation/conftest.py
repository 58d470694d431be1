"""A finished job in miniature: real tiny students on disk, a teacher's answers, and a report to render."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from understudy.data.parquet import AnnotatedExample, write_annotated, write_examples
from understudy.evaluation.compare import Difference
from understudy.evaluation.report import (
    ArmRow,
    BaselineRow,
    Comparison,
    ExampleRow,
    Machine,
    Published,
    RationaleHits,
    Report,
    SeedRow,
    TeacherRow,
)
from understudy.evaluation.spec import ArmResult, EvaluateSpec, RowCounts, TeacherFacts
from understudy.schemas import Attribution, Example, Prediction, TaskSpec, Word
from understudy.testing import LABELS, SENTENCES, TARGETS, tiny_classifier

TASK = TaskSpec(kind="classification", labels=LABELS)
EXAMPLES = tuple(
    Example(id=str(i), input=text, output=label) for i, (text, label) in enumerate(zip(SENTENCES, TARGETS, strict=True))
)


def annotate(example: Example, named: Sequence[str] = ()) -> AnnotatedExample:
    """The example with its words at single spaces, those in `named` as the teacher's."""
    words, start = [], 0
    for text in example.input.split(" "):
        words.append(Word(text=text, start=start, end=start + len(text), score=1.0))
        start += len(text) + 1
    said = Attribution(
        id=example.id,
        prediction=example.output,
        probability=1.0,
        explained=example.output,
        words=tuple(words),
        rationale=tuple(word for word in words if word.text in named),
        tokens=len(words),
    )
    return AnnotatedExample(example=example, attribution=said)


@pytest.fixture
def annotated() -> Callable[[str, str, Sequence[str]], AnnotatedExample]:
    """`annotated("a b c", "b", ["b"])`: a text, its answer and the words that the teacher named."""
    return lambda text, answer, named: annotate(Example(id=text, input=text, output=answer), named)


@pytest.fixture
def make_arm() -> Callable[..., ArmRow]:
    return arm_row


@pytest.fixture(scope="session")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """(pooling, seed) -> a model folder. They are not trained: what matters here is that they answer."""
    root = tmp_path_factory.mktemp("students")
    return {
        (pooling, seed): tiny_classifier(root / f"{pooling}-{seed}", seed=seed, pooling=pooling)
        for pooling in ("mean", "gate")
        for seed in (0, 1)
    }


@pytest.fixture
def make_spec(tmp_path: Path, students: dict[tuple[str, int], Path]) -> Callable[..., EvaluateSpec]:
    """`make_spec(seeds=2, validation={"rationale_gate": 0.9})`: three arms over twelve test rows."""

    def make(seeds: int = 1, validation: dict[str, float] | None = None, **changes: Any) -> EvaluateSpec:
        write_examples(tmp_path / "test.parquet", EXAMPLES)
        write_annotated(tmp_path / "train.parquet", [annotate(example, ["the"]) for example in EXAMPLES])
        answers = [Prediction(id=one.id, label=one.output, probability=0.9).model_dump_json() for one in EXAMPLES]
        (tmp_path / "teacher.jsonl").write_text("\n".join(answers) + "\n")
        arms = [
            ArmResult(
                recipe=recipe,
                seed=seed,
                model=students["gate" if "gate" in recipe else "mean", seed],
                artifact=f"model-{recipe}-{seed}",
                validation_accuracy=(validation or {}).get(recipe, 0.5) + 0.01 * seed,
                steps=10,
                seconds=1.5,
                candidate="random" not in recipe,
                control_of="rationale_gate" if "random" in recipe else None,
            )
            for seed in range(seeds)
            for recipe in ("finetune", "rationale_gate", "rationale_gate+random_rationale")
        ]
        given: dict[str, Any] = {
            "job_id": "ftjob-1",
            "task": TASK,
            "test": tmp_path / "test.parquet",
            "annotated": (tmp_path / "train.parquet",),
            "teacher": TeacherFacts(
                model="teacher", finetuned=True, parameters=9000, predictions=tmp_path / "teacher.jsonl"
            ),
            "arms": tuple(arms),
            "rows": RowCounts(train=12, validation=12, test=12),
            "device": "cpu",
        }
        return EvaluateSpec(**(given | changes))

    return make


def arm_row(recipe: str, accuracy: float, seeds: int = 3, **changes: Any) -> ArmRow:
    given: dict[str, Any] = {
        "recipe": recipe,
        "candidate": "random" not in recipe,
        "control_of": recipe.removesuffix("+random_rationale") if "random" in recipe else None,
        "accuracy": accuracy,
        "low": accuracy - 0.03,
        "high": accuracy + 0.03,
        "validation_accuracy": accuracy + 0.01,
        "seeds": tuple(
            SeedRow(
                seed=seed,
                accuracy=accuracy,
                validation_accuracy=accuracy,
                artifact=f"model-{seed}",
                steps=400,
                seconds=8.25,
            )
            for seed in range(seeds)
        ),
        "parameters": 586_000,
        "size_mb": 2.35,
        "latency_ms": 1.84,
        "steps": 400,
        "seconds": 8.25,
    }
    return ArmRow(**(given | changes))


@pytest.fixture
def report() -> Report:
    """A report with every part filled in."""
    text = "Opens a <socket> & waits until the server answers."
    return Report(
        job_id="ftjob-abc",
        created_at="2026-11-20T10:00:00+00:00",
        task=TASK,
        rows=RowCounts(train=1000, validation=600, test=634, rejected=3),
        arms=(
            arm_row("finetune", 0.62),
            arm_row("rationale_gate", 0.66),
            arm_row("rationale_gate+random_rationale", 0.61),
        ),
        teacher=TeacherRow(
            model="scratch:bert-2x128",
            finetuned=True,
            parameters=1_460_000,
            accuracy=0.86,
            low=0.83,
            high=0.88,
            latency_ms=4.2,
        ),
        baseline=BaselineRow(description="always 'networking'", accuracy=0.21),
        comparisons=(
            Comparison.of("rationale_gate", "finetune", Difference(0.041, 0.012, 0.07, 3)),
            Comparison.of("rationale_gate", "rationale_gate+random_rationale", Difference(-0.002, -0.02, 0.006, 3)),
        ),
        rationale=RationaleHits(rows=1000, with_answer_in_input=40, share=0.6, low=0.45, high=0.74, chance=0.2),
        published=Published(recipe="rationale_gate", seed=1, artifact="model-1", why="rationale_gate is published."),
        machine=Machine(cpu="Test CPU", cores=2, threads=1, device="CPU", torch="2.13.0", python="3.11.9"),
        caveats=("Keep this in mind.",),
        examples=(
            ExampleRow(
                input=text,
                expected="networking",
                given="files",
                probability=0.61,
                right=False,
                teacher="networking",
                words=(
                    Word(text="socket", start=9, end=15, score=0.5),
                    Word(text="server", start=35, end=41, score=1.0),
                ),
            ),
        ),
    )
