"""Which attribution method names the words that a model needs, and those that people name?

    python benchmarks/experiment_maps.py
    python benchmarks/experiment_maps.py --name tweets --data FOLDER --model FOLDER --rows 4000 --steps 500

A classifier is fine-tuned on the training rows, and its answers to held-out rows are explained by every method, beside
random words and the first ones. The data are the docstrings of the quickstart, or a folder with `train.jsonl` and
`validation.jsonl`; where people have marked words, the maps are compared with those too. Writes
`results/maps_<name>.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from understudy.attribution.comparison import CONTROLS, Comparison, compare
from understudy.data.docstrings import docstring_examples
from understudy.data.parquet import write_examples
from understudy.data.split import split_examples
from understudy.data.task import infer_task
from understudy.data.validate import load_split
from understudy.explain import default_methods
from understudy.models.load import load_adapter
from understudy.schemas import AttributionOptions, Example, Hyperparameters
from understudy.training.run import train
from understudy.training.spec import TrainResult, TrainSpec

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    training, held_out = _data(options.data)
    result = _teacher(training[: options.rows], held_out, options)
    adapter = load_adapter(str(result.model), device="cpu")
    marked = [row for row in held_out if row.highlights] or held_out
    methods = [("saliency", {"norm": "l2"}), *((name, {"n_steps": steps}) for name, steps in _STEPS)]
    asked = [one for one in [*default_methods(), *methods] if one[0] not in CONTROLS]
    found = compare(adapter, marked[: options.examples], asked, AttributionOptions(top_k=options.top_k))
    _print(found)
    written = {
        "date": options.date,
        "model": Path(options.model).name,
        "training_rows": len(training[: options.rows]),
        "teacher": result.model_dump(mode="json", exclude={"model"}),
        "threads": options.threads,
        "comparison": asdict(found),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"maps_{options.name}.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


_STEPS = (("integrated_gradients", 3), ("integrated_gradients", 8))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of JSON lines; the default is the docstring data")
    parser.add_argument("--name", default="docstrings", help="names the result file")
    parser.add_argument("--model", default="scratch:bert-2x128", help="what is fine-tuned before it is explained")
    parser.add_argument("--rows", type=int, help="training rows, the first ones; the default is all")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--examples", type=int, default=150, help="held-out rows that are explained")
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--work", type=Path, default=Path(".understudy") / "experiments")
    return parser.parse_args()


def _data(folder: Path | None) -> tuple[list[Example], list[Example]]:
    if folder is None:
        training, held_out, _ = split_examples(docstring_examples(), validation=0.15, test=0.15, seed=0)
        return list(training), list(held_out)
    training, held_out = (load_split(folder / f"{split}.jsonl", split)[0] for split in ("train", "validation"))
    return training, held_out


def _teacher(training: list[Example], held_out: list[Example], options: argparse.Namespace) -> TrainResult:
    work = options.work / f"maps-{options.name}"
    work.mkdir(parents=True, exist_ok=True)
    write_examples(work / "train.parquet", training)
    write_examples(work / "validation.parquet", held_out)
    spec = TrainSpec(
        model=options.model,
        task=infer_task(training),
        train=(work / "train.parquet",),
        annotated=False,
        validation=work / "validation.parquet",
        hyperparameters=Hyperparameters(max_steps=options.steps, batch_size=16),
    )
    result = train(spec, work / "teacher", lambda _: None)
    print(f"validation accuracy {result.validation_accuracy:.3f} in {result.seconds:.0f} s", flush=True)
    return result


def _print(found: Comparison) -> None:
    for row in found.rows:
        shown = " ".join(f"{key} {one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]" for key, one in row.figures.items())
        print(f"{row.method} {row.settings or ''} {row.seconds:.1f} s: {shown}", flush=True)


if __name__ == "__main__":
    main()
