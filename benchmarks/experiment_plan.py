"""Learning rate, steps and attention dropout of models from scratch, on the docstring data: what `plan` decides by.

    python benchmarks/experiment_plan.py

Trains with `finetune` only and reports validation accuracy; the test split is not touched. What is finished is not done
again. Writes `results/plan_docstrings.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from understudy.data.docstrings import docstring_examples
from understudy.data.parquet import write_examples
from understudy.data.split import split_examples
from understudy.data.task import infer_task
from understudy.models import scratch
from understudy.schemas import Hyperparameters, TaskSpec
from understudy.training.plan import Shape, resolve
from understudy.training.run import train
from understudy.training.spec import TrainSpec

RESULT = Path(__file__).parent / "results" / "plan_docstrings.json"

STUDENT, TEACHER = "scratch:bert-1x64", "scratch:bert-2x128"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".understudy") / "experiments" / "plan")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    train_rows, validation, _ = split_examples(docstring_examples(), validation=0.15, test=0.15, seed=0)
    write_examples(options.work / "train.parquet", train_rows)
    write_examples(options.work / "validation.parquet", validation)
    found = [_run(options.work, infer_task(train_rows), one) for one in _settings()]
    result = {"date": options.date, "command": "python benchmarks/experiment_plan.py", "threads": 1, "runs": found}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _settings() -> Iterator[dict[str, Any]]:
    for seed in (0, 1):
        for rows, lengths in ((300, (200, 400)), (1000, (300, 600)), (0, (500, 1000))):
            for steps in lengths:
                for rate in (1e-3, 3e-3, 6e-3):
                    yield {"model": STUDENT, "rows": rows, "steps": steps, "rate": rate, "dropout": 0.0, "seed": seed}
        for rate in (5e-4, 1e-3, 2e-3):
            yield {"model": TEACHER, "rows": 0, "steps": 1000, "rate": rate, "dropout": 0.0, "seed": seed}
        yield {"model": TEACHER, "rows": 0, "steps": 2000, "rate": 1e-3, "dropout": 0.0, "seed": seed}
        yield {"model": TEACHER, "rows": 0, "steps": 1000, "rate": 1e-3, "dropout": 0.1, "seed": seed}
        yield {"model": STUDENT, "rows": 0, "steps": 1000, "rate": 3e-3, "dropout": 0.1, "seed": seed}


def _run(work: Path, task: TaskSpec, setting: dict[str, Any]) -> dict[str, Any]:
    name = "-".join(str(value).replace(":", "-") for value in setting.values())
    with_dropout = scratch._CONFIGS | {"bert": lambda *given: _with(scratch._bert(*given), setting["dropout"])}
    original, scratch._CONFIGS = scratch._CONFIGS, with_dropout
    spec = TrainSpec(
        model=setting["model"],
        task=task,
        train=(work / "train.parquet",),
        annotated=False,
        validation=work / "validation.parquet",
        seed=setting["seed"],
        max_train_rows=setting["rows"] or None,
        hyperparameters=Hyperparameters(
            n_epochs=1000,
            max_steps=setting["steps"],
            learning_rate_multiplier=setting["rate"] / _auto(setting["model"]),
        ),
    )
    started = time.process_time()
    result = train(spec, work / name, lambda _: None)
    scratch._CONFIGS = original
    print(f"{name}: {result.validation_accuracy:.3f}", flush=True)
    return {
        **setting,
        "validation_accuracy": result.validation_accuracy,
        "validation_loss": result.validation_loss,
        "best_step": result.best_step,
        "seconds": round(result.seconds, 1),
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def _with(config: Any, dropout: float) -> Any:
    config.attention_probs_dropout_prob = dropout
    return config


def _auto(model: str) -> float:
    """The learning rate that `auto` stands for, which the multiplier multiplies."""
    size = scratch.parse_scratch(model)
    shape = Shape("classifier", parameters=1, width=size.width, layers=size.layers, scratch=True)
    return resolve(Hyperparameters(), rows=1000, shape=shape).learning_rate


if __name__ == "__main__":
    main()
