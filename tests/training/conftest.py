"""A small annotated data set whose label is decided by one word, and specs that train tiny models on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from understudy.attribution.words import word_spans
from understudy.data.parquet import AnnotatedExample, write_annotated, write_examples
from understudy.schemas import Attribution, Example, Hyperparameters, TaskSpec, Word
from understudy.training.spec import TrainSpec

LABELS = ("bad", "good")
TASK = TaskSpec(kind="classification", labels=LABELS)
_SIGNS = {"good": ("wonderful", "charming"), "bad": ("dreadful", "boring")}
_FRAMES = (
    "A {} film about two brothers.",
    "What a {} evening that was, said the old man.",
    "The food was {}, and the room was small.",
    "I found the second half {} and the first half long, and I said so to my friend.",
    "{}!",
    "She called it {} on the way home.",
)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_rows() -> list[AnnotatedExample]:
    """24 rows; the teacher names the word that decides, and is 90 % sure."""
    rows = []
    for number, frame in enumerate(_FRAMES):
        for label, signs in _SIGNS.items():
            for sign in signs:
                example = Example(id=f"{number}-{sign}", input=frame.format(sign), output=label)
                rows.append(AnnotatedExample(example=example, attribution=annotate(example, sign)))
    return rows


def annotate(example: Example, sign: str) -> Attribution:
    words = tuple(
        Word(text=example.input[a:b], start=a, end=b, score=10.0 if example.input[a:b] == sign else 1 / (1 + a))
        for a, b in word_spans(example.input)
    )
    best = sorted(words, key=lambda word: -word.score)[:2]
    return Attribution(
        id=example.id,
        prediction=example.output,
        probability=0.9,
        probabilities={label: 0.9 if label == example.output else 0.1 for label in LABELS},
        explained=example.output,
        words=words,
        rationale=tuple(sorted(best, key=lambda word: word.start)),
        tokens=len(words),
    )


@pytest.fixture
def rows() -> list[AnnotatedExample]:
    return make_rows()


@pytest.fixture
def make_spec(tmp_path: Path, rows: list[AnnotatedExample]) -> Callable[..., TrainSpec]:
    """`make_spec("saliency", model="scratch:t5-1x16", steps=4)`: the rows on disk and a spec that trains on them."""

    def make(recipe: str = "finetune", model: str = "scratch:bert-1x16", steps: int = 6, **changes: Any) -> TrainSpec:
        train, validation = tmp_path / "train.parquet", tmp_path / "validation.parquet"
        write_annotated(train, changes.pop("rows", rows))
        write_examples(validation, [row.example for row in rows])
        given: dict[str, Any] = {
            "model": model,
            "task": TASK,
            "train": (train,),
            "annotated": True,
            "validation": validation,
            "recipe": recipe,
            "hyperparameters": Hyperparameters(n_epochs=1000, max_steps=steps, batch_size=5),
        }
        return TrainSpec(**(given | changes))

    return make
