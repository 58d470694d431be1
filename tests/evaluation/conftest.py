"""A finished job in miniature: real tiny students on disk, a teacher's answers, and a report to render."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from understudy.data.parquet import AnnotatedExample, write_annotated, write_examples
from understudy.evaluation.agreement import agreements, side_by_side, teacher_map
from understudy.evaluation.answered import Answered
from understudy.evaluation.calibration import calibration
from understudy.evaluation.compare import Difference
from understudy.evaluation.details import Cost, CurvePoint, Estimate
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
    corrected,
)
from understudy.evaluation.slices import confusion, slices
from understudy.evaluation.spec import (
    ArmResult,
    EvaluateSpec,
    MapFaithfulness,
    RowCounts,
    Searched,
    TeacherFacts,
)
from understudy.schemas import Attribution, Example, Faithfulness, Prediction, TaskSpec, Word
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
    return lambda text, answer, named: annotate(Example(id=text[:200], input=text, output=answer), named)


@pytest.fixture
def answered() -> Callable[..., Answered]:
    """`answered("logit_kd", "1101", seed=1)`: a run, and which test rows it answered rightly."""

    def make(recipe: str, right: str, seed: int = 0, size: int | None = None, **changes: Any) -> Answered:
        parts = recipe.split("+")
        control = parts[-1] in ("random_rationale", "shuffled_rationale")
        arm = ArmResult(
            recipe=recipe,
            seed=seed,
            model=Path("model"),
            artifact=f"model-{recipe}-{seed}-{size}",
            validation_accuracy=0.5,
            steps=10,
            seconds=1.5,
            candidate=not control,
            control_of="+".join(parts[:-1]) if control else None,
            size=size,
        )
        return Answered(
            arm=arm.model_copy(update=changes),
            given=["music"] * len(right),
            probabilities=[0.5] * len(right),
            right=[one == "1" for one in right],
            truncated=0,
            parameters=500,
            size_mb=2.0,
            latency_ms=1.0,
        )

    return make


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
def report(annotated: Callable[..., AnnotatedExample]) -> Report:
    """A report with every part filled in."""
    marked = annotated("Opens a <socket> and waits", "networking", ["a", "waits"])
    marked = marked.model_copy(update={"example": marked.example.model_copy(update={"highlights": ((8, 16),)})})
    student = [(marked.attribution.words[4],)]
    figures = {"aopc_comprehensiveness": 0.3, "aopc_sufficiency": 0.2, "log_odds": -1.0}
    faithful = [Faithfulness(comprehensiveness=c, sufficiency=s, **figures) for c, s in ((0.4, 0.1), (0.1, 0.5))]
    right = [place % 4 > 0 for place in range(60)]
    test = [Example(id=str(i), input=f"text {i}", output=LABELS[i % 2]) for i in range(60)]
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
        comparisons=corrected(
            [
                Comparison.of(
                    "rationale_gate",
                    "finetune",
                    Difference(0.041, 0.012, 0.07, 3, 0.021, (0.3, 0.004, 0.0002), 0.108, 0.085),
                ),
                Comparison.of(
                    "rationale_gate", "rationale_gate+random_rationale", Difference(-0.002, -0.02, 0.006, 3, 0.8)
                ),
            ]
        ),
        rationale=RationaleHits(rows=1000, with_answer_in_input=40, share=0.6, low=0.45, high=0.74, chance=0.2),
        published=Published(recipe="rationale_gate", seed=1, artifact="model-1", why="rationale_gate is published."),
        machine=Machine(cpu="Test CPU", cores=2, threads=1, device="CPU", torch="2.13.0", python="3.11.9"),
        caveats=("Keep this in mind.",),
        curve=tuple(
            CurvePoint(
                recipe=recipe,
                size=size,
                seeds=3,
                accuracy=Estimate(value=value, low=value - 0.03, high=value + 0.03),
                difference=None if recipe == "finetune" else Estimate(value=0.04, low=-0.011, high=0.09),
                candidate="random" not in recipe,
                whole=size == 1000,
            )
            for size, value in ((100, 0.4123), (1000, 0.62))
            for recipe in ("finetune", "rationale_gate", "rationale_gate+random_rationale")
        ),
        searched=(
            Searched(recipe="rationale_gate", validation_accuracy=0.517, steps=75, kept=True),
            Searched(recipe="logit_kd", validation_accuracy=0.433, steps=75, kept=False),
        ),
        slices=slices(TASK, test, {"teacher": {0: [True] * 60}, "rationale_gate": {0: right}}),
        confusion=confusion(TASK, test, [LABELS[0]] * 60),
        calibration=(
            calibration("teacher", [0.9] * 60, right),
            calibration("rationale_gate", [0.5 + i / 120 for i in range(60)], right, seed=1),
        ),
        agreement=agreements([marked], student),
        words=side_by_side([marked], student),
        words_sample="1 of 1,000 training rows, drawn by the hash of their text.",
        teacher_map=teacher_map(MapFaithfulness(method="saliency", found=faithful[:1], random=faithful[1:])),
        cost=Cost(
            teacher_training=200,
            annotation=30,
            annotation_tokens=31_000,
            finetune=8,
            published=8.25,
            experiment=148.5,
            runs=18,
            beyond=230.25,
            latency_ratio=2.28,
            parameters_ratio=2.49,
            repaid_after=97_500,
        ),
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
