"""A small model to try things with, made from nothing in some seconds: the first two examples use it.

It reads a sentence of Python's own documentation and says which chapter it is from. Not an example itself: with a model
of your own you need none of this.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from understudy.data.docstrings import docstring_examples
from understudy.data.parquet import write_examples
from understudy.schemas import Hyperparameters, TaskSpec
from understudy.training.run import train
from understudy.training.spec import TrainSpec

FOLDER = Path(".understudy/examples/small-model")

STEPS = 200


def small_model() -> Path:
    """The folder of the model, which is trained where it is not there yet."""
    if not FOLDER.is_dir():
        print(f"Training a small model into {FOLDER}, once ...")
        rows = docstring_examples()
        labels = tuple(sorted({row.output for row in rows}))
        with tempfile.TemporaryDirectory() as scratch:
            files = {"train": Path(scratch) / "train.parquet", "validation": Path(scratch) / "validation.parquet"}
            write_examples(files["train"], rows[200:])
            write_examples(files["validation"], rows[:200])
            spec = TrainSpec(
                model="scratch:bert-1x64",
                task=TaskSpec(kind="classification", labels=labels),
                train=(files["train"],),
                annotated=False,
                validation=files["validation"],
                hyperparameters=Hyperparameters(max_steps=STEPS),
            )
            result = train(spec, Path(scratch) / "training", lambda _: None)
            shutil.copytree(result.model, FOLDER)
    return FOLDER
