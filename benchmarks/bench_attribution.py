"""What a saliency map costs, against one at a time and against the floor of two forward passes.

    python benchmarks/bench_attribution.py [--quick]

All variants run in turn within each round on one thread; figures are medians of CPU time over rounds, as ratios to our
batches. The model has random weights: its answers do not matter here, its shape does. Writes
`results/attribution.json` (not with --quick) and ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from understudy.attribution.attribute import attribute
from understudy.attribution.methods import METHODS
from understudy.batching import plan_batches
from understudy.data.docstrings import docstring_examples
from understudy.models.base import Adapter
from understudy.models.load import adapt, create
from understudy.schemas import AttributionExample, Example, TaskSpec

RESULT = Path(__file__).parent / "results" / "attribution.json"
BUDGET = 2048  # padded tokens of a batch, the library's default


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    shape, count, rounds = ("t5-2x128", 32, 3) if options.quick else ("t5-6x512", 64, 5)
    adapter, examples = _model(f"scratch:{shape}", count)
    variants = _variants(adapter, examples)
    for run in variants.values():
        run()  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            before = time.process_time()
            run()
            seconds[name].append(time.process_time() - before)
    base = seconds["batches by length"]
    ratios = {
        name: [mine / ours for mine, ours in zip(times, base, strict=True)]
        for name, times in seconds.items()
        if name != "batches by length"
    }
    figures = {name: _spread(values) for name, values in ratios.items()}
    per_second = count / statistics.median(base)
    if not options.quick:
        result = {
            "model": shape,
            "parameters": adapter.model.num_parameters(),
            "examples": count,
            "rounds": rounds,
            "threads": 1,
            "machine": f"{_cpu()}, torch {torch.__version__}",
            "examples_per_cpu_second": round(per_second, 1),
            "ratios_to_batches_by_length": figures,
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, figure in figures.items():
        print(f"{name:<44} {figure['median']:5.2f}  ({figure['min']:.2f} - {figure['max']:.2f})")
    print(json.dumps({name: figure["median"] for name, figure in figures.items()}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small shape, under a minute, nothing written")
    return parser.parse_args()


def _model(ref: str, count: int) -> tuple[Adapter, list[Example]]:
    """A model of that shape, and texts of 20 to 128 of its tokens."""
    every = docstring_examples()
    labels = tuple(sorted({example.output for example in every}))
    task = TaskSpec(kind="classification", labels=labels)
    texts = [example.input for example in every]
    model, tokenizer = create(ref, store=None, task=task, texts=texts, targets=labels, seed=0)
    adapter = adapt(model, tokenizer, task)
    lengths = adapter.lengths(texts)
    fitting = [example for example, length in zip(every, lengths, strict=True) if 20 <= length <= 128]
    return adapter, fitting[:: len(fitting) // count][:count]


def _variants(adapter: Adapter, examples: Sequence[Example]) -> dict[str, Callable[[], object]]:
    method = METHODS.get("saliency")()
    texts, targets = [example.input for example in examples], [example.output for example in examples]
    asked = [AttributionExample(input=example.input, output=example.output) for example in examples]
    everything = range(len(texts))
    sorted_batches = plan_batches(adapter.lengths(texts), BUDGET)

    def explain(batches: Sequence[Sequence[int]]) -> None:
        for batch in batches:
            method(adapter, adapter.encode([texts[i] for i in batch], [targets[i] for i in batch]))

    def two_forward_passes() -> None:
        with torch.inference_mode():
            for batch in sorted_batches:
                encoded = adapter.encode([texts[i] for i in batch], [targets[i] for i in batch])
                for _ in range(2):
                    adapter.score(adapter.embed(encoded.ids), encoded.mask, encoded.labels)

    return {
        "batches by length": lambda: explain(sorted_batches),
        "one by one": lambda: explain([[i] for i in everything]),
        "batches of 16 in order of arrival": lambda: explain([everything[i : i + 16] for i in everything[::16]]),
        "two forward passes of the same batches": two_forward_passes,
        "the whole answer (prediction of 9 labels too)": lambda: attribute(adapter, asked, target="gold"),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def _cpu() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.processor()


if __name__ == "__main__":
    main()
