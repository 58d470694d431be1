"""Learning rate, steps and attention dropout: what `plan` decides by.

    python benchmarks/experiment_plan.py
    python benchmarks/experiment_plan.py --name tweets --data FOLDER --model cut:2@FOLDER

Models from scratch on the docstring data; or a pretrained one, cut or whole, on a folder with `train.jsonl`,
`validation.jsonl` and `test.jsonl`. Trains with `finetune` only and reports validation accuracy; no test row is
touched. What is finished is not done again. Writes `results/plan_<name>.json`.
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
from understudy.data.split import remove_leaks, split_examples
from understudy.data.task import infer_task
from understudy.data.validate import load_split
from understudy.models import scratch
from understudy.models.names import is_cut
from understudy.schemas import Example, Hyperparameters, TaskSpec
from understudy.training.plan import Shape, resolve
from understudy.training.run import train
from understudy.training.spec import TrainSpec
from understudy.training.views import Row, select_rows

RESULTS = Path(__file__).parent / "results"

STUDENT, TEACHER = "scratch:bert-1x64", "scratch:bert-2x128"
OFF = 0.0
"""The attention dropout of models from scratch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="docstrings", help="names the result file")
    parser.add_argument("--data", type=Path, help="a folder of JSON lines; the default is the docstring data")
    parser.add_argument("--model", help="a pretrained one; the default are two from scratch")
    parser.add_argument("--validation", type=int, default=500, help="at most so many rows of it")
    parser.add_argument("--work", type=Path, default=Path(".understudy") / "experiments" / "plan")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    work = options.work / options.name
    work.mkdir(parents=True, exist_ok=True)
    train_rows, validation = _rows(options.data)
    write_examples(work / "train.parquet", train_rows)
    chosen = select_rows([Row(row) for row in validation], options.validation)
    write_examples(work / "validation.parquet", [row.example for row in chosen])
    task = infer_task(train_rows)
    settings = _pretrained(options.model) if options.model else _scratch()
    found = [_run(work, task, one) for one in settings]
    command = "python benchmarks/experiment_plan.py"
    if options.model:
        command += f" --name {options.name} --data {options.data.name} --model {_shown(options.model)}"
    result = {"date": options.date, "command": command, "threads": 1, "runs": found}
    (RESULTS / f"plan_{options.name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _rows(data: Path | None) -> tuple[list[Example], list[Example]]:
    if data is None:
        train_rows, validation, _ = split_examples(docstring_examples(), validation=0.15, test=0.15, seed=0)
        return train_rows, validation
    read = {name: load_split(data / f"{name}.jsonl", name)[0] for name in ("train", "validation", "test")}
    train_rows, validation, _ = remove_leaks(read["train"], read["validation"], read["test"])
    return list(train_rows), list(validation)


def _scratch() -> Iterator[dict[str, Any]]:
    for seed in (0, 1):
        for rows, lengths in ((300, (200, 400)), (1000, (300, 600)), (0, (500, 1000))):
            for steps in lengths:
                for rate in (1e-3, 3e-3, 6e-3):
                    yield {"model": STUDENT, "rows": rows, "steps": steps, "rate": rate, "dropout": OFF, "seed": seed}
        for rate in (5e-4, 1e-3, 2e-3):
            yield {"model": TEACHER, "rows": 0, "steps": 1000, "rate": rate, "dropout": OFF, "seed": seed}
        yield {"model": TEACHER, "rows": 0, "steps": 2000, "rate": 1e-3, "dropout": OFF, "seed": seed}
        yield {"model": TEACHER, "rows": 0, "steps": 1000, "rate": 1e-3, "dropout": 0.1, "seed": seed}
        yield {"model": STUDENT, "rows": 0, "steps": 1000, "rate": 3e-3, "dropout": 0.1, "seed": seed}


def _pretrained(model: str) -> Iterator[dict[str, Any]]:
    """Three passes over the rows, and more; then faster."""
    for seed in (0, 1):
        for rows, lengths in ((100, (21, 100, 200, 400)), (300, (57, 200, 400)), (1000, (189, 400))):
            for steps in lengths:
                yield {"model": model, "rows": rows, "steps": steps, "rate": 5e-5, "dropout": None, "seed": seed}
        for rate in (1e-4, 2e-4):
            yield {"model": model, "rows": 100, "steps": 200, "rate": rate, "dropout": None, "seed": seed}


def _run(work: Path, task: TaskSpec, setting: dict[str, Any]) -> dict[str, Any]:
    shown = setting | {"model": _shown(setting["model"])}
    name = "-".join(str(value).replace(":", "-") for value in shown.values())
    original = scratch._CONFIGS
    if setting["dropout"] is not None:
        scratch._CONFIGS = original | {"bert": lambda *given: _with(original["bert"](*given), setting["dropout"])}
    spec = TrainSpec(
        model=setting["model"],
        task=task,
        train=(work / "train.parquet",),
        annotated=False,
        validation=work / "validation.parquet",
        seed=setting["seed"],
        max_train_rows=setting["rows"] or None,
        hyperparameters=Hyperparameters(
            n_epochs=100_000,
            max_steps=setting["steps"],
            learning_rate_multiplier=setting["rate"] / _auto(setting["model"]),
        ),
    )
    started = time.process_time()
    result = train(spec, work / name, lambda _: None)
    scratch._CONFIGS = original
    print(f"{name}: {result.validation_accuracy:.3f}", flush=True)
    return {
        **shown,
        "validation_accuracy": result.validation_accuracy,
        "validation_loss": result.validation_loss,
        "best_step": result.best_step,
        "seconds": round(result.seconds, 1),
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def _shown(model: str) -> str:
    """Without the place of somebody's folders; of a cut what is kept."""
    return model.partition("@")[0] if is_cut(model) else Path(model).name


def _with(config: Any, dropout: float) -> Any:
    config.attention_probs_dropout_prob = dropout
    return config


def _auto(model: str) -> float:
    """The learning rate that `auto` stands for, which the multiplier multiplies."""
    if model.startswith(scratch.PREFIX):
        size = scratch.parse_scratch(model)
        shape = Shape("classifier", parameters=1, width=size.width, layers=size.layers, scratch=True)
    else:
        shape = Shape("classifier", parameters=1, width=1, layers=1, scratch=False)
    return resolve(Hyperparameters(), rows=1000, shape=shape).learning_rate


if __name__ == "__main__":
    main()
